//! Epochs: who owns the pages between two cuts.

use std::fmt;

use ringmark_dirty::DirtyPages;
use ringmark_dirty::mutant::{self, Mutant};

use crate::cut::{Cut, Running};
use crate::throttle::LetGo;
use crate::{SourceError, SourceKind, Tracker};

/// How many of an epoch's pages each source reported first; the fields sum up to the epoch's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BySource {
    /// From the base, or from epochs that were not committed.
    pub carried: u64,
    /// From the vCPUs' dirty rings.
    pub ring: u64,
    /// From the kernel's bitmaps.
    pub bitmap: u64,
    /// From sources of the monitor's author.
    pub other: u64,
    /// From the monitor's own writes.
    pub monitor: u64,
    /// From whole slots that were reported because of an [`Event`](crate::Event).
    pub event: u64,
}

impl BySource {
    /// All pages.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.carried + self.ring + self.bitmap + self.other + self.monitor + self.event
    }

    fn of(&mut self, kind: SourceKind) -> &mut u64 {
        match kind {
            SourceKind::Ring => &mut self.ring,
            SourceKind::Bitmap => &mut self.bitmap,
            SourceKind::Other => &mut self.other,
            SourceKind::Monitor => &mut self.monitor,
        }
    }
}

/// Why a round failed. The pages taken so far stay in the epoch and come with its next round.
#[derive(Debug, thiserror::Error)]
#[error("{kind} could not be harvested: {error}")]
pub struct RoundError {
    /// Which source failed.
    pub kind: SourceKind,
    /// Why.
    #[source]
    pub error: SourceError,
}

/// Which of a source's harvests is meant.
#[derive(Clone, Copy)]
enum Pass {
    Live,
    Final,
}

/// Pages of an epoch whose contents a consumer has, as they were when they were handed out last. None of them was harvested
/// since.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) consumer: u128,
    pages: DirtyPages,
}

/// The pages of one epoch and the tracker they return to: held by [`OpenEpoch`], [`Cut`] and [`Epoch`] in turn, so that
/// dropping any of them rolls back.
pub(crate) struct Owned<'t> {
    tracker: &'t mut Tracker,
    /// Every page of the epoch.
    pages: DirtyPages,
    /// Those that were not handed out yet.
    fresh: DirtyPages,
    by_source: BySource,
    committed: bool,
    acknowledged: Option<Acknowledged>,
    /// While the guest is stopped or being stopped: no vCPU waits for a throttle.
    let_go: Option<LetGo>,
}

impl<'t> Owned<'t> {
    fn new(tracker: &'t mut Tracker) -> Self {
        let empty = || DirtyPages::new(tracker.slots());
        let (mut pages, mut fresh) = (empty(), empty());
        if let Some(reports) = tracker.reports() {
            reports.begin_epoch();
        }
        let carried = tracker.take_carried();
        let by_source = BySource { carried: pages.union_with(&carried), ..BySource::default() };
        fresh.union_with(&carried);
        let acknowledged = tracker.take_acknowledged();
        Self { tracker, pages, fresh, by_source, committed: false, acknowledged, let_go: None }
    }

    fn harvest(&mut self, pass: Pass, of: impl Fn(SourceKind) -> bool) -> Result<(), RoundError> {
        for at in 0..self.tracker.sources().len() {
            let mut collected = self.tracker.empty();
            let source = &mut self.tracker.sources()[at];
            let kind = source.kind();
            if !of(kind) || (mutant::active(Mutant::OtherSourcesSkipped) && kind == SourceKind::Other) {
                continue;
            }
            let result = match pass {
                Pass::Live => source.harvest(&mut collected),
                Pass::Final => source.seal(&mut collected),
            };
            if mutant::active(Mutant::FailedHarvestForgotten) && result.is_err() {
                collected = self.tracker.empty();
            }
            // Before the error is looked at: the source has forgotten these pages.
            *self.by_source.of(kind) += self.pages.union_with(collected.reported());
            self.by_source.event += self.pages.union_with(collected.suspected());
            if let Some(reports) = self.tracker.reports() {
                reports.note(kind, collected.reported());
            }
            self.fresh.union_with(collected.reported());
            self.fresh.union_with(collected.suspected());
            if let Some(acknowledged) = &mut self.acknowledged
                && !mutant::active(Mutant::AcknowledgedForGood)
            {
                acknowledged.pages.subtract(collected.reported());
                acknowledged.pages.subtract(collected.suspected());
            }
            result.map_err(|error| RoundError { kind, error })?;
        }
        Ok(())
    }

    /// The guest is to be stopped, or to run on.
    pub(crate) fn stopping(&mut self, stopping: bool) {
        self.let_go = stopping.then(|| self.tracker.let_go());
    }

    pub(crate) fn seal(&mut self) -> Result<(), RoundError> {
        let early = mutant::active(Mutant::BitmapBeforeTables);
        self.harvest(Pass::Final, |kind| !(early && kind == SourceKind::Bitmap))
    }

    /// The kernel's bitmaps alone, before what is left to be saved has written memory.
    pub(crate) fn seal_bitmaps(&mut self) -> Result<(), RoundError> {
        self.harvest(Pass::Final, |kind| kind == SourceKind::Bitmap)
    }

    pub(crate) fn unchanged_since_seal(&mut self) -> Result<(), RoundError> {
        for source in self.tracker.sources() {
            let kind = source.kind();
            source.unchanged_since_seal().map_err(|error| RoundError { kind, error })?;
        }
        Ok(())
    }

    /// What the next harvest would give at most, with what was not handed out yet.
    fn pending(&mut self) -> Option<u64> {
        let not_handed_out = self.fresh.len();
        let sources = self.tracker.sources().iter_mut();
        sources.map(|source| source.pending()).sum::<Option<u64>>().map(|pages| pages + not_handed_out)
    }

    pub(crate) const fn pages(&self) -> &DirtyPages {
        &self.pages
    }

    pub(crate) const fn fresh(&self) -> &DirtyPages {
        &self.fresh
    }

    pub(crate) const fn by_source(&self) -> BySource {
        self.by_source
    }

    pub(crate) fn events(&self) -> crate::EventLog {
        self.tracker.events()
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // What a consumer holds it holds, whoever else has all of the epoch.
        self.tracker.put_acknowledged(self.acknowledged.take());
        if !self.committed && !mutant::active(Mutant::RollbackForgotten) {
            let fresh_only = mutant::active(Mutant::RollbackWithoutRounds);
            self.tracker.roll_back(if fresh_only { &self.fresh } else { &self.pages });
        }
    }
}

impl fmt::Debug for Owned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owned").field("pages", &self.pages.len()).field("by_source", &self.by_source).finish()
    }
}

/// The epoch that is under way, while the guest runs.
///
/// Dropped, it rolls back: everything it took is in the next epoch.
#[derive(Debug)]
#[must_use = "an epoch that is dropped rolls back into the next one"]
pub struct OpenEpoch<'t> {
    owned: Owned<'t>,
}

impl<'t> OpenEpoch<'t> {
    pub(crate) fn new(tracker: &'t mut Tracker) -> Self {
        Self { owned: Owned::new(tracker) }
    }

    /// An epoch that goes on.
    pub(crate) const fn again(owned: Owned<'t>) -> Self {
        Self { owned }
    }

    /// Harvests all sources while the guest runs: the pages written since the last round, the first round's with what
    /// the base and uncommitted epochs left.
    ///
    /// They are protected again, so their contents may be read now: a later write is in a later round. They stay the
    /// epoch's until it is committed, whatever the caller does with the set.
    ///
    /// # Errors
    /// Names the source that failed; what was taken comes with the next round. The guest runs on.
    pub fn round(&mut self) -> Result<DirtyPages, RoundError> {
        self.owned.harvest(Pass::Live, |_| true)?;
        Ok(self.owned.fresh.take())
    }

    /// How many pages the next round would give if it were taken now, at most, where every source can tell that without being
    /// harvested: dirty rings and the monitor's own writes can, stand-alone bitmaps cannot. It protects nothing and
    /// costs the guest nothing.
    pub fn pending(&mut self) -> Option<u64> {
        self.owned.pending()
    }

    /// Takes note that `consumer`, any number that tells it from others, has the contents of `pages` as rounds have handed them
    /// out last; those that were handed out again since are not to be among them. Should the epoch roll back, this
    /// consumer can [go on](Self::go_on) from there in a later one; for everybody else they are pages like others.
    pub fn acknowledge(&mut self, consumer: u128, pages: &DirtyPages) {
        let Owned { acknowledged, fresh, .. } = &mut self.owned;
        if acknowledged.as_ref().is_none_or(|held| held.consumer != consumer) {
            *acknowledged = Some(Acknowledged { consumer, pages: pages.clone() });
        }
        if let Some(held) = acknowledged {
            held.pages.union_with(pages);
            // Harvested since, and not handed out yet.
            held.pages.subtract(fresh);
        }
    }

    /// What `consumer` holds as it is: acknowledged, in this epoch or an earlier one, and not harvested since. All other pages of
    /// memory it does not hold, whether or not they are of this epoch: another consumer's may have been committed meanwhile.
    #[must_use]
    pub fn acknowledged(&self, consumer: u128) -> Option<&DirtyPages> {
        let held = self.owned.acknowledged.as_ref().filter(|held| held.consumer == consumer);
        held.map(|held| &held.pages)
    }

    /// Leaves out of the first round what `consumer` [holds](Self::acknowledged); whether it has acknowledged anything. To be
    /// called before the first round, and by a consumer that does hold it. The pages are the epoch's all the same.
    pub fn go_on(&mut self, consumer: u128) -> bool {
        let Owned { acknowledged, fresh, .. } = &mut self.owned;
        match acknowledged {
            Some(held) if held.consumer == consumer => {
                fresh.subtract(&held.pages);
                true
            }
            _ => false,
        }
    }

    /// Every page that the rounds so far have given.
    #[must_use]
    pub const fn pages(&self) -> &DirtyPages {
        self.owned.pages()
    }

    /// The pages by source.
    #[must_use]
    pub const fn by_source(&self) -> BySource {
        self.owned.by_source()
    }

    /// Begins the cut that ends the epoch. The guest still runs.
    pub fn cut(self) -> Cut<'t, Running> {
        Cut::new(self.owned)
    }
}

/// A complete epoch: every page written between two cuts. The guest runs again.
///
/// It ends in [`commit`](Self::commit), when its data is durable or acknowledged; dropped, it rolls back and its
/// pages are in the next epoch too.
#[derive(Debug)]
#[must_use = "an epoch that is dropped rolls back into the next one"]
pub struct Epoch<'t> {
    owned: Owned<'t>,
}

impl<'t> Epoch<'t> {
    pub(crate) const fn new(owned: Owned<'t>) -> Self {
        Self { owned }
    }

    /// Every page of the epoch: the union of its rounds and of the sealed cut.
    #[must_use]
    pub const fn pages(&self) -> &DirtyPages {
        self.owned.pages()
    }

    /// The pages by source.
    #[must_use]
    pub const fn by_source(&self) -> BySource {
        self.owned.by_source()
    }

    /// Lets the pages go: the data that belongs to them is durable, or acknowledged by whoever takes it.
    ///
    /// ```compile_fail,E0382
    /// # fn f(epoch: ringmark_track::Epoch<'_>) {
    /// epoch.commit();
    /// epoch.commit(); // there is no second time
    /// # }
    /// ```
    pub fn commit(mut self) {
        self.owned.committed = true;
    }
}

/// ```compile_fail,E0499
/// # fn f(tracker: &mut ringmark_track::Tracker) -> Result<(), Box<dyn std::error::Error>> {
/// let first = tracker.open()?;
/// let second = tracker.open()?; // two epochs at once
/// drop(first);
/// # Ok(()) }
/// ```
#[cfg(doctest)]
struct TwoEpochsAtOnce;
