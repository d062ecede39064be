//! Playing a migration many times.

use std::time::Duration;

use super::curve::{Curve, Drawn};
use super::draw::{count, normal};
use super::fit::floor_share;
use super::play::{Costs, FOREVER, Played, Read, Slowing, play};
use super::remedy::{self, Remedies};
use super::{Bounds, Conditions, PredictError, Prediction, Waits, Window};
use crate::send::beside::interval;

/// Plays: the 5 % at either end are ten of them.
const PLAYS: usize = 200;

/// So many harvests beside a round are looked at one by one.
const EACH: f64 = 4.0;

/// Guests are not when they move quite what they were when they were measured: the standard deviation of the logarithm.
const DRIFT: f64 = 0.03;
/// The same for each share of its time that a thread waits for a processor: a guest is one, and so is whoever sends.
const CONTENDED: f64 = 0.5;

/// Everything that is drawn once, so that what is asked of it afterwards is asked of the same futures.
#[derive(Debug)]
pub struct Forecast {
    conditions: Conditions,
    middle: Future,
    futures: Vec<Future>,
}

/// One way in which it may come.
#[derive(Debug)]
pub(super) struct Future {
    curve: Drawn,
    costs: Costs,
    /// How busy the guest is, if it stays so: the share of windows in which it writes less.
    mood: Option<f64>,
    /// How the rounds differ.
    seed: u64,
}

impl Future {
    /// Everything as expected.
    fn middle(curve: &Curve, conditions: &Conditions) -> Self {
        let (curve, costs) = (curve.middle(), Costs::middle(conditions));
        Self { curve, costs, mood: Some(0.5), seed: conditions.seed }
    }

    /// What one round after the other leaves, by their lengths in seconds, and by how much of the guest is held back.
    fn written(&self, quiet: bool, throttle: f64) -> impl FnMut(f64, f64, Read) -> [f64; 2] {
        let mut random = fastrand::Rng::with_seed(self.seed);
        move |seconds, more, read| {
            let noise = if quiet { 0.0 } else { normal(&mut random) };
            let mood = random.f64();
            let mood = self.mood.unwrap_or(mood);
            let pages = |time: f64| self.curve.pages(time * (1.0 - throttle), mood, noise);
            [0.0, more].map(|more| left(seconds, more, read, self.curve.fit.hot, pages))
        }
    }

    /// One wait for a processor after the other.
    fn waits(&self, waits: &Waits) -> impl FnMut() -> f64 {
        let mut random = fastrand::Rng::with_seed(!self.seed);
        move || waits.draw(&mut random)
    }

    /// Plays it with a part of the guest's writes held back, and as [`Costs::with`] says.
    pub(super) fn play(
        &self,
        conditions: &Conditions,
        slowing: Slowing,
        throttle: f64,
        bandwidth: f64,
        ratio: f64,
    ) -> Played {
        let costs = self.costs.with(bandwidth, ratio);
        let (written, waits) = (self.written(false, throttle), self.waits(&conditions.waits));
        play(&costs, &conditions.goal, slowing, written, waits, |_| {})
    }

    fn floor(&self) -> (f64, f64) {
        let mood = self.mood.unwrap_or(0.5);
        let hot = self.curve.fit.hot;
        self.costs
            .floor(|seconds, read| left(seconds, 0.0, read, hot, |time| self.curve.pages(time, mood, 0.0)))
    }

    fn rho(&self) -> f64 {
        self.curve.fit.rate * self.costs.page_bytes / self.costs.bandwidth
    }
}

/// Different pages that are to be sent again after a round of so many seconds, or so much later, by a guest that writes `hot` pages
/// over and over.
fn left(seconds: f64, more: f64, read: Read, hot: f64, pages: impl Fn(f64) -> f64) -> f64 {
    match read {
        Read::Before(share) => pages(seconds * share + more),
        Read::InTurn(round) => {
            let between = interval(Duration::from_secs_f64(seconds.clamp(0.0, FOREVER))).as_secs_f64();
            let (all, spared) = (pages(seconds + more), mean(seconds, between, |time| pages(time + more)));
            // A page that is not in the round is owed whenever it was written.
            all - (all - spared).max(0.0) * (round / hot.max(1.0)).min(1.0)
        }
    }
}

/// What is left of a round of so many seconds whose pages are read one after the other, and which is harvested every so often.
fn mean(seconds: f64, between: f64, pages: impl Fn(f64) -> f64) -> f64 {
    let harvests = (seconds / between).floor();
    if harvests <= EACH {
        // What is read after a harvest and before the next was written, if at all, since the former.
        let shares = (0..=count(harvests)).map(|harvest| {
            let since = seconds - harvest as f64 * between;
            since.min(between) * pages(since)
        });
        return shares.sum::<f64>() / seconds.max(f64::MIN_POSITIVE);
    }
    // The quadrature of Gauss and Legendre with three points.
    let ends = 0.5 * 0.6_f64.sqrt();
    let at = |share: f64| pages(seconds * share + between / 2.0);
    (5.0 * at(0.5 - ends) + 8.0 * at(0.5) + 5.0 * at(0.5 + ends)) / 18.0
}

/// Seconds of the shortest downtime that rounds can lead to, and of the whole migration, where everything comes as expected: one play,
/// where a [`Forecast`] has hundreds.
///
/// # Errors
/// If nothing was measured.
pub(crate) fn expected(windows: &[Window], conditions: &Conditions) -> Result<(f64, f64), PredictError> {
    let curve = Curve::new(windows, conditions.memory_pages as f64).ok_or(PredictError::NothingMeasured)?;
    let (middle, wait) = (Future::middle(&curve, conditions), conditions.waits.middle());
    let written = middle.written(true, 0.0);
    let played = play(&middle.costs, &conditions.goal, Slowing::Never, written, || wait, |_| {});
    Ok((middle.floor().1, played.total))
}

impl Forecast {
    /// Draws the futures of a guest that was measured in `windows`.
    ///
    /// # Errors
    /// If nothing was measured.
    pub fn new(windows: &[Window], conditions: &Conditions) -> Result<Self, PredictError> {
        let most = conditions.memory_pages as f64;
        let curve = Curve::new(windows, most).ok_or(PredictError::NothingMeasured)?;
        let mut random = fastrand::Rng::with_seed(conditions.seed);
        let middle = Future::middle(&curve, conditions);
        let contended = CONTENDED * conditions.waits.contention();
        let futures = (0..PLAYS)
            .map(|play| Future {
                curve: curve.draw(DRIFT + contended, &mut random),
                costs: Costs::draw(conditions, &mut random).slower(contended * normal(&mut random).abs()),
                // Bursts may be longer than all rounds or shorter than each; which of both is not known.
                mood: Some(random.f64()).filter(|_| play % 2 == 0),
                seed: random.u64(..),
            })
            .collect();
        Ok(Self { conditions: *conditions, middle, futures })
    }

    /// What comes out, without [remedies](Self::remedies).
    #[must_use]
    pub fn prediction(&self) -> Prediction {
        let goal = &self.conditions.goal;
        let bounds = |of: &dyn Fn(&Future) -> f64| Bounds::of(self.futures.iter().map(of).collect());
        let floors: Vec<(f64, f64)> = self.futures.iter().map(Future::floor).collect();
        let floor_downtime = Bounds::of(floors.iter().map(|(_, seconds)| seconds * 1e3).collect());
        let foreseen = floor_downtime.most[0] > goal.downtime.as_secs_f64() * 1e3;
        let slowing = match (self.conditions.throttle, foreseen) {
            (false, _) => Slowing::Never,
            (true, false) => Slowing::AtFloor,
            (true, true) => Slowing::Foreseen,
        };
        let played = |future: &Future| future.play(&self.conditions, slowing, 0.0, 1.0, 1.0);
        let plays: Vec<Played> = self.futures.iter().map(played).collect();
        let outcome = |of: &dyn Fn(&Played) -> f64| Bounds::of(plays.iter().map(of).collect());
        let mut course = Vec::new();
        let wait = self.conditions.waits.middle();
        let written = self.middle.written(true, 0.0);
        play(&self.middle.costs, goal, slowing, written, || wait, |step| course.push(step));
        Prediction {
            hot_pages: bounds(&|future| future.curve.fit.hot),
            dirty_pages_rate: bounds(&|future| future.curve.fit.rate),
            rho: bounds(&Future::rho),
            floor_share: bounds(&|future| floor_share(future.rho())),
            floor_pages: Bounds::of(floors.iter().map(|(pages, _)| *pages).collect()),
            floor_downtime,
            rounds: outcome(&|played| f64::from(played.rounds)).whole(),
            total_time: outcome(&|played| played.total * 1e3),
            downtime: outcome(&|played| played.downtime * 1e3),
            chance: match slowing {
                Slowing::Never => plays.iter().filter(|played| played.met).count() as f64 / PLAYS as f64,
                Slowing::AtFloor | Slowing::Foreseen => self.chance(0.0, 1.0, 1.0),
            },
            remedies: None,
            course,
        }
    }

    /// What it would take to meet the goal in nine of ten migrations.
    #[must_use]
    pub fn remedies(&self) -> Remedies {
        remedy::find(self.conditions.bandwidth.value(), &|throttle, bandwidth, ratio| {
            self.chance(throttle, bandwidth, ratio)
        })
    }

    /// The share of futures in which the goal is met.
    fn chance(&self, throttle: f64, bandwidth: f64, ratio: f64) -> f64 {
        // Slowing the guest down is itself a remedy: how likely the goal is met is said of one that is left alone.
        let met =
            |future: &&Future| future.play(&self.conditions, Slowing::Never, throttle, bandwidth, ratio).met;
        self.futures.iter().filter(met).count() as f64 / PLAYS as f64
    }
}
