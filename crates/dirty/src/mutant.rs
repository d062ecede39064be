//! Mistakes that lose pages, to be put back on purpose.
//!
//! A check that has never failed proves little. Each [`Mutant`] is one known way of losing a page, behind one branch at
//! the very place of the rule that forbids it; `cargo xtask mutants` switches them on one at a time and expects a
//! named test to fail. Without the cargo feature `mutants` [`active`] is a constant `false` and the branches are gone.

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $mutant:ident = $name:literal,)+) => {
        /// A mistake that loses pages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Mutant {
            $($(#[doc = $doc])+ $mutant,)+
        }

        impl Mutant {
            /// Every mutant.
            pub const ALL: &[Self] = &[$(Self::$mutant,)+];

            /// Its name in `RINGMARK_MUTANT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$mutant => $name,)+
                }
            }
        }
    };
}

mutants! {
    /// `dirty`: an entry goes back to the kernel before slot and offset are read.
    HandBackBeforeRead = "hand-back-before-read",
    /// `dirty`: the flags of an entry are loaded without acquire.
    FlagReadRelaxed = "flag-read-relaxed",
    /// `dirty`: the flags of an entry are stored without release.
    FlagWrittenRelaxed = "flag-written-relaxed",
    /// `dirty`: nobody looks whether a drained ring was full.
    OverflowUnseen = "overflow-unseen",
    /// `dirty`: entries of an overrun ring that were seen empty on the way to a pushed one are taken for phantoms.
    GapSeenOnce = "gap-seen-once",
    /// `dirty`: an entry's offset is not held against its slot.
    EntryUnchecked = "entry-unchecked",
    /// `dirty`: a bitmap's bit is set only if it is seen to be clear.
    LookBeforeMark = "look-before-mark",
    /// `dirty`: a bitmap's word is read, then cleared.
    TakeInTwoSteps = "take-in-two-steps",
    /// `dirty`: of two sets over different slots the shorter decides.
    ShorterOfTwo = "shorter-of-two",
    /// `engine`: the kernel's side drops what finds the ring full.
    FullRingDropsEntry = "full-ring-drops-entry",
    /// `engine`: the kernel's side resets entries and leaves translations as they are.
    ResetWithoutFlush = "reset-without-flush",
    /// `track`: arm64's rings without the backup bitmap.
    RingWithoutBitmap = "ring-without-bitmap",
    /// `track`: manual protect with `INITIALLY_SET`.
    InitiallySet = "initially-set",
    /// `track`: the first epoch is what is written from now on, not every page.
    FirstEpochNoBase = "first-epoch-no-base",
    /// `track`: a new base leaves the log of the old one as it is.
    BaseKeepsOldLog = "base-keeps-old-log",
    /// `track`: signals reach the thread that resets.
    SignalsNotBlocked = "signals-not-blocked",
    /// `track`: a reset that took fewer entries than were harvested counts as done.
    ShortResetIgnored = "short-reset-ignored",
    /// `track`: what a short reset left writable is forgotten when the next reset is refused.
    ShortResetForgotten = "short-reset-forgotten",
    /// `track`: pages that a short reset left writable are reported and not protected again.
    SuspectsStayWritable = "suspects-stay-writable",
    /// `track`: a slot's log is switched off and on and what it held is not reported.
    LogDroppedWithItsBits = "log-dropped-with-its-bits",
    /// `track`: a ring that overflowed is read on as if nothing were missing.
    OverflowIgnored = "overflow-ignored",
    /// `track`: the newest entry of each drain is dropped, its store being still to come.
    LastEntryDropped = "last-entry-dropped",
    /// `track`: what a full ring gives is thrown away to make room.
    FullRingDiscarded = "full-ring-discarded",
    /// `track`: a round's pages are read before they are protected again.
    ReadBeforeReset = "read-before-reset",
    /// `track`: the guest resumes, then the last entries are reset.
    ResetAfterResume = "reset-after-resume",
    /// `track`: the rings are not harvested at the seal.
    FinalHarvestSkipped = "final-harvest-skipped",
    /// `track`: entries pushed after the seal are nobody's business.
    LateEntriesIgnored = "late-entries-ignored",
    /// `track`: the kernel's bitmaps are sealed before the devices are saved, so what saving them writes is missing.
    BitmapBeforeTables = "bitmap-before-tables",
    /// `track`: the backup bitmap is not collected at the seal.
    BackupBitmapSkipped = "backup-bitmap-skipped",
    /// `track`: a bitmap that could not be read is taken for an empty one.
    FailedLogTakenForClean = "failed-log-taken-for-clean",
    /// `track`: whole words are cleared and re-protected, also the bits that were not read.
    ClearMoreThanRead = "clear-more-than-read",
    /// `track`: the last word of a slot's bitmap is cut off.
    LastWordCut = "last-word-cut",
    /// `track`: what the monitor has marked is not harvested.
    MonitorMarksSkipped = "monitor-marks-skipped",
    /// `track`: sources of the monitor's author (a vhost log) are not harvested.
    OtherSourcesSkipped = "other-sources-skipped",
    /// `track`: a write of the monitor is marked when it begins.
    MarkBeforeWrite = "mark-before-write",
    /// `track`: of a write over several pages the first is marked.
    FirstPageMarkedOnly = "first-page-marked-only",
    /// `track`: a page is taken to have 4096 bytes.
    PagesOf4096 = "pages-of-4096",
    /// `track`: the cut is sealed while a write of the monitor is under way.
    SealUnderWriters = "seal-under-writers",
    /// `track`: what a harvest took before it failed is dropped.
    FailedHarvestForgotten = "failed-harvest-forgotten",
    /// `track`: an epoch that ends without commit takes its pages along.
    RollbackForgotten = "rollback-forgotten",
    /// `track`: an epoch that ends without commit gives back only what no round has handed out.
    RollbackWithoutRounds = "rollback-without-rounds",
    /// `track`: the audit excuses every change.
    AuditBlind = "audit-blind",
    /// `image`: a zero page is not recorded, and the parent's content shows through.
    ZeroPageSkipped = "zero-page-skipped",
    /// `image`: pages are placed one after another; those that are left out do not advance the offset.
    OffsetNotAdvanced = "offset-not-advanced",
    /// `image`: of a page that several layers hold the oldest counts.
    OlderLayerWins = "older-layer-wins",
    /// `image`: a page of the parent that is stored again replaces one that was put.
    GatheredOverPut = "gathered-over-put",
    /// `track`: a page that a consumer has acknowledged stays acknowledged when it is harvested again.
    AcknowledgedForGood = "acknowledged-for-good",
    /// `migrate`: a page that is written after a round has read it is taken for one that is still to be read.
    FrontierForgotten = "frontier-forgotten",
    /// `migrate`: a hole that is filled while a round is under way is taken for a page that is still to be read.
    HolesAhead = "holes-ahead",
    /// `migrate`: the guest is stopped, and what was harvested beside the last round is not sent.
    OwedForgotten = "owed-forgotten",
    /// `image`: an error of a sync is dropped, and the image counts as durable.
    SyncErrorIgnored = "sync-error-ignored",
    /// `image`: an image becomes visible before its data is durable.
    VisibleBeforeDurable = "visible-before-durable",
    /// `image`: a writer that fails takes the image along that it was to go on from.
    FailedWriterTakesParent = "failed-writer-takes-parent",
    /// `machine`: the epoch is committed before its image is durable.
    CommitBeforeDurable = "commit-before-durable",
    /// `machine`: of a page that is copied twice the older copy is written last.
    OlderCopyWins = "older-copy-wins",
    /// `machine`: the next increment goes on from the image before the newest.
    ParentNotAdvanced = "parent-not-advanced",
    /// `machine`: a restored machine goes on from the newest image of its name, not from the one it was restored from.
    NewestTakenForParent = "newest-taken-for-parent",
    /// `machine`: after a restore tracking begins when devices have their state back already.
    TrackedAfterDevices = "tracked-after-devices",
    /// `machine`: a page that is not mapped in this process is taken for a hole.
    UnmappedTakenForHole = "unmapped-taken-for-hole",
    /// `machine`: pages that a lazy restore has not brought yet are taken for zero.
    AbsentPagesTakenForZero = "absent-pages-taken-for-zero",
}

impl Mutant {
    /// The mutant of this [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

#[cfg(feature = "mutants")]
pub use switch::{active, set};

/// Whether the mistake is put back: never, without the cargo feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn active(mutant: Mutant) -> bool {
    let _ = mutant;
    false
}

#[cfg(feature = "mutants")]
mod switch {
    extern crate std;

    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Once;

    use super::Mutant;

    /// 0 for none, else the mutant's number plus one.
    static ACTIVE: AtomicUsize = AtomicUsize::new(0);
    static FROM_ENVIRONMENT: Once = Once::new();

    /// Whether the mistake is put back: the one that was [`set`], at first the one named by `RINGMARK_MUTANT`.
    ///
    /// # Panics
    /// If `RINGMARK_MUTANT` names none.
    #[must_use]
    pub fn active(mutant: Mutant) -> bool {
        FROM_ENVIRONMENT.call_once(|| {
            if let Ok(name) = std::env::var("RINGMARK_MUTANT") {
                let Some(named) = Mutant::from_name(&name) else {
                    panic!("RINGMARK_MUTANT={name}: no such mutant")
                };
                ACTIVE.store(named as usize + 1, Ordering::SeqCst);
            }
        });
        ACTIVE.load(Ordering::Relaxed) == mutant as usize + 1
    }

    /// Puts the mistake back in this process, or with `None` takes it out again.
    pub fn set(mutant: Option<Mutant>) {
        // Whatever the environment says comes first, or it would undo this.
        FROM_ENVIRONMENT.call_once(|| {});
        ACTIVE.store(mutant.map_or(0, |mutant| mutant as usize + 1), Ordering::SeqCst);
    }
}
