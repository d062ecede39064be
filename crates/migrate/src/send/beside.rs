//! A round beside which the guest's writes are harvested.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, SlotTable};
use ringmark_track::{OpenEpoch, RoundError};

use super::frontier::Frontier;
use super::stream::{Order, Round};
use super::{DepartError, Departing, Departure, stream};
use crate::codec::Encoded;
use crate::predict::{Sampler, lengths};

/// Windows that are measured during the first round, at most: half a second of them.
const WINDOWS: usize = 64;
/// The shortest time between two harvests during a later round.
const SHORTEST: Duration = Duration::from_millis(2);
/// Of the time that a round has taken so far, the part after which it is harvested again. Each harvest makes the guest pay for
/// its next writes: so there are few during a long round, and what is not spared is a small part of it.
const PART: u32 = 16;
/// Harvests take at most one part in so many of the time.
const EFFORT: u32 = 8;

/// Whether a round that is expected to take so long is worth a harvest beside it.
pub(crate) fn pays(expected: Duration) -> bool {
    expected >= SHORTEST * 2
}

/// How long to wait for the next harvest of a round that began so long ago, or takes so long.
pub(crate) fn interval(elapsed: Duration) -> Duration {
    SHORTEST.max(elapsed / PART)
}

/// What became of a round.
pub(super) struct Harvested {
    pub(super) sent: Encoded,
    pub(super) elapsed: Duration,
    /// Pages that were written meanwhile, as far as they were harvested, but for those that the round read afterwards.
    pub(super) owed: DirtyPages,
    /// How many pages were written meanwhile.
    pub(super) written: u64,
}

/// Harvests beside a round, and what they tell.
struct Harvests<'a> {
    frontier: &'a Frontier,
    /// The windows of the guest that are measured, where they are.
    sampler: Option<Sampler>,
    lengths: Box<dyn Iterator<Item = Duration>>,
    begun: Instant,
    /// The end of the last window that was measured.
    last: Instant,
    owed: DirtyPages,
    written: DirtyPages,
    /// Written since the last window that was measured.
    rest: DirtyPages,
    /// How long the longest harvest took.
    longest: Duration,
    /// The window that is under way is to be so long, and measured.
    measures: Option<Duration>,
}

impl<M: Departing> Departure<'_, M> {
    /// Sends the base, and measures meanwhile how many different pages the guest writes in which time.
    pub(super) fn first_round(
        &mut self,
        epoch: &mut OpenEpoch<'_>,
        pages: &DirtyPages,
        holes: &DirtyPages,
    ) -> Result<(Harvested, Sampler), DepartError> {
        let (harvested, sampler) = self.round_beside(epoch, pages, Some(holes), Some(Sampler::new()))?;
        Ok((harvested, sampler.unwrap_or_default()))
    }

    /// Sends `pages` over all streams. What the guest has written of them before they are read is not sent again.
    pub(super) fn later_round(
        &mut self,
        epoch: &mut OpenEpoch<'_>,
        pages: &DirtyPages,
    ) -> Result<Harvested, DepartError> {
        Ok(self.round_beside(epoch, pages, None, None)?.0)
    }

    fn round_beside(
        &mut self,
        epoch: &mut OpenEpoch<'_>,
        pages: &DirtyPages,
        holes: Option<&DirtyPages>,
        sampler: Option<Sampler>,
    ) -> Result<(Harvested, Option<Sampler>), DepartError> {
        let mut streams = std::mem::take(&mut self.streams);
        let frontier = Frontier::new(self.machine.slots());
        // The first round is all of memory, and goes through it as it lies.
        let order = if sampler.is_some() { Order::Ascending } else { Order::Shuffled };
        let round =
            stream::Round { order, frontier: Some(&frontier), ..self.round(pages, holes, streams.len()) };
        let mut harvests = Harvests::new(&frontier, sampler, self.machine.slots());
        let (sent, harvested) = thread::scope(|scope| {
            let (done, ended) = channel();
            for stream in &mut streams {
                let (done, round) = (done.clone(), &round);
                scope.spawn(move || {
                    // Whoever waits for it outlives this thread.
                    let _ = done.send(stream.round(round));
                });
            }
            drop(done);
            // The first stream that ends ends the measurement: from then on the round is no longer what it was.
            let mut harvested = Ok(());
            let first = loop {
                match ended.recv_timeout(harvests.next()) {
                    Err(RecvTimeoutError::Timeout) if harvested.is_ok() => {
                        harvested = harvests.harvest(epoch, &round);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(share) => break Some(share),
                    Err(RecvTimeoutError::Disconnected) => break None,
                }
            };
            let sent = Encoded::sum(first.into_iter().chain(ended));
            let harvested = harvested.and_then(|()| harvests.end(epoch, &round));
            (sent, harvested)
        });
        let elapsed = harvests.begun.elapsed();
        self.streams = streams;
        let Harvests { sampler, owed, written, .. } = harvests;
        if sent.is_err() || harvested.is_err() {
            self.partly_confirmed(epoch, &owed);
        }
        harvested?;
        Ok((Harvested { sent: sent?, elapsed, owed, written: written.len() }, sampler))
    }
}

impl<'a> Harvests<'a> {
    fn new(frontier: &'a Frontier, sampler: Option<Sampler>, slots: &SlotTable) -> Self {
        let (begun, none) = (Instant::now(), DirtyPages::new(slots));
        let lengths: Box<dyn Iterator<Item = Duration>> = match sampler {
            Some(_) => Box::new(lengths().take(WINDOWS)),
            None => Box::new(std::iter::empty()),
        };
        Self {
            frontier,
            sampler,
            lengths,
            begun,
            last: begun,
            owed: none.clone(),
            written: none.clone(),
            rest: none,
            longest: Duration::ZERO,
            measures: None,
        }
    }

    /// How long to wait for the next harvest.
    fn next(&mut self) -> Duration {
        self.measures = self.lengths.next();
        self.measures.unwrap_or_else(|| interval(self.begun.elapsed()).max(self.longest * EFFORT))
    }

    fn harvest(&mut self, epoch: &mut OpenEpoch<'_>, round: &Round<'_>) -> Result<(), RoundError> {
        let begun = Instant::now();
        let pages = epoch.round()?;
        let now = Instant::now();
        self.longest = self.longest.max(now - begun);
        self.take(&pages, round);
        match (self.measures, &mut self.sampler) {
            (Some(length), Some(sampler)) => {
                sampler.late(length, now - self.last);
                sampler.push(now - self.last, pages);
                self.last = now;
            }
            _ => drop(self.rest.union_with(&pages)),
        }
        Ok(())
    }

    /// The round is over. What is left of it is one more window, and the longest.
    fn end(&mut self, epoch: &mut OpenEpoch<'_>, round: &Round<'_>) -> Result<(), RoundError> {
        let pages = epoch.round()?;
        self.take(&pages, round);
        if let Some(sampler) = &mut self.sampler {
            self.rest.union_with(&pages);
            sampler.push(self.last.elapsed(), self.rest.take());
        }
        Ok(())
    }

    fn take(&mut self, pages: &DirtyPages, round: &Round<'_>) {
        self.written.union_with(pages);
        self.owed.union_with(&self.frontier.owed(pages.clone(), round.pages, round.holes));
    }
}
