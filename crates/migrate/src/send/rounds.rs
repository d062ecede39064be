//! Rounds, while the guest runs.

use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_track::OpenEpoch;

use super::beside::{self, Harvested};
use super::converge::Verdict;
use super::{DepartError, Departing, Departure, Prefer, SendProgress};
use crate::codec::Encoded;
use crate::report::Throttled;

/// A round that is over.
struct Sent {
    pages: DirtyPages,
    sent: Encoded,
    elapsed: Duration,
    /// How many pages were written meanwhile, where that was measured.
    written: Option<u64>,
}

impl<M: Departing> Departure<'_, M> {
    /// Sends pages in rounds while the guest runs, until the last set is as small as it gets or as was asked for.
    pub(super) fn precopy(
        &mut self,
        epoch: &mut OpenEpoch<'_>,
        watch: &mut dyn FnMut(&SendProgress<'_>),
    ) -> Result<(), DepartError> {
        loop {
            if let Some(throttle) = self.throttle.as_ref().filter(|throttle| !throttle.is_engaged()) {
                throttle.measure();
            }
            let Sent { pages, sent, elapsed, written } = self.one_round(epoch)?;
            let pending = epoch.pending().map(|pending| pending + self.owed.len());
            self.convergence.observe(pages.len(), elapsed, written);
            let late = self.is_late();
            let mut verdict = self.convergence.verdict(late, pending);
            if self.report.rounds.is_empty()
                && verdict == Verdict::Another
                && (self.options.prefer == Prefer::Guest || self.can_slow())
                && let Some(expected) = self.foreseen_miss()
            {
                verdict = Verdict::Floor { expected };
            }
            self.report.ram.precopy_bytes += sent.bytes;
            self.note(&pages, &sent, elapsed, self.convergence.expected_downtime(pending));
            self.report.ram.dirty_pages_rate = self.convergence.dirty_pages_rate();
            match verdict {
                // Who watches may take time, in which the guest writes: before the guest is stopped nobody is asked to.
                Verdict::Another => watch(&SendProgress { report: &self.report, stopped: false }),
                Verdict::Switch => return Ok(()),
                Verdict::Floor { expected } => {
                    if self.options.prefer == Prefer::Guest {
                        return Err(self.goal(expected));
                    }
                    if late || !self.slow_down() {
                        return Ok(());
                    }
                    watch(&SendProgress { report: &self.report, stopped: false });
                }
            }
        }
    }

    /// Sends what was written since the last round, or the base.
    fn one_round(&mut self, epoch: &mut OpenEpoch<'_>) -> Result<Sent, DepartError> {
        let mut pages = epoch.round()?;
        self.report.ram.remaining = pages.len() * self.page_size.bytes();
        if self.report.rounds.is_empty() {
            // Every page, whatever the epoch began with, but for those that the destination holds as they are.
            pages.insert_all();
            if let Some(held) = epoch.acknowledged(self.consumer) {
                pages.subtract(held);
            }
            self.report.ram.remaining = pages.len() * self.page_size.bytes();
            // Holes are looked for after logging was switched on: one that is filled meanwhile is in a later round.
            let holes = self.machine.holes().map_err(DepartError::Holes)?;
            let (first, sampler) = self.first_round(epoch, &pages, &holes)?;
            self.seeded = None;
            self.foresee(&first, &sampler);
            return Ok(self.sent_beside(epoch, pages, first));
        }
        pages.union_with(&self.owed.take());
        if beside::pays(self.convergence.sending(pages.len())) {
            let round = self.later_round(epoch, &pages)?;
            return Ok(self.sent_beside(epoch, pages, round));
        }
        let begun = Instant::now();
        // Nothing is harvested meanwhile, and so nothing owed.
        let sent = self.send(&pages, false).inspect_err(|_| self.partly_confirmed(epoch, &self.owed))?;
        let elapsed = begun.elapsed();
        self.confirmed(epoch, &pages, &self.owed);
        Ok(Sent { pages, sent, elapsed, written: None })
    }

    /// A round has been sent, and what was written meanwhile harvested.
    fn sent_beside(&mut self, epoch: &mut OpenEpoch<'_>, pages: DirtyPages, round: Harvested) -> Sent {
        let Harvested { sent, elapsed, owed, written } = round;
        self.confirmed(epoch, &pages, &owed);
        self.owed = owed;
        Sent { pages, sent, elapsed, written: Some(written) }
    }

    /// A round broke off: the destination holds what it has acknowledged of it, but for those that are owed.
    pub(super) fn partly_confirmed(&self, epoch: &mut OpenEpoch<'_>, owed: &DirtyPages) {
        self.streams.iter().for_each(|stream| self.confirmed(epoch, stream.confirmed(), owed));
    }

    /// `pages` have passed a barrier: the destination holds them, but for those that are owed.
    fn confirmed(&self, epoch: &mut OpenEpoch<'_>, pages: &DirtyPages, owed: &DirtyPages) {
        if !self.keeps {
            return;
        }
        let mut pages = pages.clone();
        pages.subtract(owed);
        epoch.acknowledge(self.consumer, &pages);
    }

    /// Slows down the vCPUs that write most, where that is possible and was not tried often enough.
    fn slow_down(&mut self) -> bool {
        let Some(throttle) = self.throttle.as_mut().filter(|throttle| throttle.can_slow()) else {
            return false;
        };
        let Some(pages) = self.convergence.slow_down() else { return false };
        tracing::info!(pages, "the rounds do not get smaller: the guest is held to so many pages a second");
        throttle.hold_to(pages);
        self.report.throttle = Throttled::of(throttle, pages);
        true
    }
}
