//! What a machine's migration would come to, found out without moving a page.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_migrate::predict::{
    Conditions, Estimate, Goal, MeasureError, PredictError, Prediction, Remedies, Sampler, measure, predict,
    rest, sample,
};
use ringmark_migrate::send::SendOptions;
use ringmark_track::{Memory, MemoryError};

use super::depart::UnderWay;
use crate::lazy::LoadError;
use crate::machine::{Machine, RunState};

/// How far off what pages cost may be beside what was not looked at, where they are sent for the first time.
const ONCE: f64 = 0.1;
/// The same where they are sent again: perhaps as a difference, and as the guest has changed them.
const AGAIN: f64 = 0.4;
/// How exactly a migration keeps to the bandwidth that it was given.
const GIVEN: f64 = 0.05;
/// Below this share of the link's bandwidth it is the processor that bounds the rate, and how far off that may be: the other side's is
/// not known, and what else runs on either changes.
const BOUND: f64 = 0.9;
const WORK: f64 = 0.7;
/// Times that something goes there and back before the first page, and in the downtime.
const SETUP_TRIPS: f64 = 4.0;
const DOWNTIME_TRIPS: f64 = 2.0;

/// The migration that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foresight {
    /// For how long the guest's writes are watched.
    pub time: Duration,
    /// Bytes a second of the link, or that the migration is to take at most; without it hosts side by side are assumed.
    pub bandwidth: Option<u64>,
    /// How long something takes there and back, beyond what hosts side by side need.
    pub round_trip: Duration,
    /// What it is to achieve.
    pub goal: Goal,
    /// Whether the guest is slowed down where its rounds do not get small enough.
    pub throttle: bool,
}

/// What it would come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreseen {
    /// The prediction.
    pub prediction: Prediction,
    /// For how long the guest's writes were watched.
    pub measured: Duration,
    /// Windows of all lengths in that time.
    pub windows: usize,
    /// Bytes a second of the link.
    pub bandwidth: f64,
    /// Bytes a second at which pages are sent that the guest has written: less where this processor takes longer to read and encode
    /// them than they take on the link. A faster link does not help then.
    pub rate: f64,
    /// Whether the guest can be slowed down and would be.
    pub throttle: bool,
}

/// Why nothing can be said. The guest runs on, and no page is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeseeError {
    /// A checkpoint is being taken, it is on its way, or is being watched already.
    #[error("a checkpoint, a migration or a prediction of this machine is under way; wait for it")]
    Busy,
    /// The machine is no more.
    #[error("the machine has ended; there is no guest to watch")]
    Ended,
    /// An earlier migration is undecided.
    #[error(
        "the guest may run at the destination of an earlier migration, and stands still here until that is decided"
    )]
    Undecided,
    /// It writes nothing while it is paused, which says nothing of how it writes.
    #[error(
        "the guest is paused, or was while it was watched: what it writes when it runs cannot be measured"
    )]
    Paused,
    /// It was called off.
    #[error("the watch was called off before anything could be said")]
    Stopped,
    /// Some of a lazily restored memory did not come.
    #[error("a migration needs all of memory: {0}")]
    Load(#[from] LoadError),
    /// The guest's writes could not be measured.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The holes of memory could not be found.
    #[error("the holes of guest memory could not be found: {0}")]
    Holes(#[from] std::io::Error),
    /// Memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Nothing was measured.
    #[error(transparent)]
    Predict(#[from] PredictError),
}

impl Machine {
    /// Watches what the guest writes while it runs, and says what its migration would come to.
    ///
    /// Each look protects the guest's pages anew, which costs it some faults; nothing is sent, and the next checkpoint is the
    /// increment that it would have been. While it lasts none is taken; one that is asked for is refused. Setting `stop` calls it
    /// off.
    ///
    /// # Errors
    /// Why nothing can be said. The guest runs on.
    pub fn predict(&self, wanted: &Foresight, stop: &AtomicBool) -> Result<Foreseen, ForeseeError> {
        let begun = Instant::now();
        let (sampler, can_slow, _under_way) = self.watch_writes(wanted.time, stop)?;
        let measured = begun.elapsed();
        if stop.load(Ordering::Relaxed) {
            return Err(ForeseeError::Stopped);
        }
        let (bandwidth, conditions) = self.conditions(wanted, &sampler)?;
        let conditions = Conditions { throttle: wanted.throttle && can_slow, ..conditions };
        let mut prediction = predict(sampler.windows(), &conditions)?;
        let rate = conditions.bandwidth.value();
        if rate < bandwidth * BOUND {
            prediction.remedies = prediction.remedies.map(|remedies| Remedies {
                bandwidth: None,
                compression: None,
                ..remedies
            });
        }
        Ok(Foreseen {
            prediction,
            measured,
            windows: sampler.windows().len(),
            bandwidth,
            rate,
            throttle: conditions.throttle,
        })
    }

    /// Whether the guest's writes are being watched for a prediction.
    #[must_use]
    pub fn is_predicting(&self) -> bool {
        self.prediction_running.load(Ordering::Relaxed)
    }

    /// What the guest writes, and whether it could be slowed down; and that a prediction is under way.
    fn watch_writes(
        &self,
        time: Duration,
        stop: &AtomicBool,
    ) -> Result<(Sampler, bool, UnderWay<'_>), ForeseeError> {
        let mut state = self.try_lock_checkpoints().ok_or(ForeseeError::Busy)?;
        let under_way = UnderWay::new(&self.prediction_running);
        self.writes()?;
        self.ram.wait_until_whole()?;
        let sampler = measure(&mut state.tracker, time, stop)?;
        self.writes()?;
        Ok((sampler, state.tracker.throttle().can_slow(), under_way))
    }

    /// Whether there is a guest that runs, and so writes.
    fn writes(&self) -> Result<(), ForeseeError> {
        match (self.outcome(), self.run_state()) {
            (Some(_), _) => Err(ForeseeError::Ended),
            (None, RunState::Undecided) => Err(ForeseeError::Undecided),
            (None, RunState::Paused) => Err(ForeseeError::Paused),
            (None, RunState::Running) => Ok(()),
        }
    }

    /// Bytes a second of the link, and what the migration costs, but for the throttle.
    fn conditions(&self, wanted: &Foresight, sampler: &Sampler) -> Result<(f64, Conditions), ForeseeError> {
        let assumed = Conditions::assumed(self.ram.page_size());
        let link = wanted.bandwidth.map_or(assumed.bandwidth, |given| Estimate::around(given as f64, GIVEN));
        let encodings = SendOptions::default().encodings;
        let cost = |pages: &DirtyPages| sample(&self.ram, pages, &encodings, link.value());
        let present = self.ram.present()?;
        let written = sampler.written().unwrap_or_else(|| DirtyPages::new(self.ram.slots()));
        let (once, again) = (cost(&present)?, cost(&written)?);
        // Work is reckoned as a slower link, by the pages that the rounds are made of.
        let rate = again.bytes / again.seconds(link.value());
        let spread = if rate < link.value() * BOUND { WORK } else { link.spread() };
        let all = once.seconds(link.value()) * present.len() as f64;
        let trip = wanted.round_trip.as_secs_f64();
        let conditions = Conditions {
            memory_pages: self.ram.slots().total_pages(),
            first_bytes: once.estimate(all * rate, ONCE),
            first_rest: rest(&present, &written),
            page_bytes: again.estimate(again.bytes, AGAIN),
            bandwidth: Estimate::around(rate, spread),
            setup: later(assumed.setup, SETUP_TRIPS * trip),
            round: later(assumed.round, trip),
            downtime: later(assumed.downtime, DOWNTIME_TRIPS * trip),
            waits: sampler.waits(),
            goal: wanted.goal,
            ..assumed
        };
        Ok((link.value(), conditions))
    }
}

/// The same quantity with `seconds` more that are certain.
fn later(estimate: Estimate, seconds: f64) -> Estimate {
    let value = estimate.value() + seconds;
    Estimate::around(value, estimate.spread() * estimate.value() / value)
}
