//! Two ways of finding written pages side by side, one held against the other.

mod hashes;
mod write_protect;

use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, PageSize, SlotTable};

use crate::audit::Escape;
use crate::reports::Sources;
use crate::{Collected, Reports, Source, SourceError};

pub use hashes::MemoryHashes;
pub use write_protect::{WriteProtect, WriteProtectError};

/// Holds what a tracker reports against a second [`Source`], the checker, that looks at the same memory in another way: a
/// page that the checker saw and that no source of the tracker reported has escaped.
///
/// Any source may be the checker. Two are here: [`MemoryHashes`] sees every page whose content changed, by whomever, and
/// [`WriteProtect`] every page that was opened for writing through this process's mapping, also where nothing changed.
/// Neither shares anything with KVM's logs, so that a fault of one is not a fault of both.
///
/// The checker is asked once a cut, with the guest stopped: its pages of a cut that failed come with the next, as the
/// epoch's do. It runs beside the tracker and takes nothing from it.
///
/// ```
/// use std::sync::Arc;
/// use ringmark_dirty::{DirtyPages, Gfn, Memslot, PageSize, SlotId, SlotTable};
/// use ringmark_track::{Differential, Memory, MemoryError, MemoryHashes};
/// # use std::sync::atomic::{AtomicU8, Ordering};
/// # #[derive(Default)]
/// # struct Ram([AtomicU8; 4]);
/// # impl Memory for Ram {
/// #     fn page_size(&self) -> PageSize { PageSize::new(4096).unwrap() }
/// #     fn read(&self, _: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
/// #         page.fill(self.0[offset as usize].load(Ordering::Relaxed));
/// #         Ok(())
/// #     }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let slot = Memslot { id: SlotId::new(0, 0), base: Gfn(0x100), npages: 4 };
/// let slots = SlotTable::new([slot])?;
/// let memory = Arc::new(Ram::default());
/// let hashes = MemoryHashes::new(&slots, memory.clone());
/// let mut differential = Differential::new(Box::new(hashes), &slots, memory.page_size());
/// differential.begin()?;
///
/// memory.0[2].store(1, Ordering::Relaxed);
/// let reported = DirtyPages::new(&slots); // by a tracker that missed it
/// let found = differential.observe(&reported)?;
/// assert_eq!(found.escapes[0].gfn, Gfn(0x102));
/// # Ok(()) }
/// ```
pub struct Differential {
    checker: Box<dyn Source>,
    slots: SlotTable,
    page_size: PageSize,
    reports: Option<Reports>,
    /// What the checker gave up at a cut that could not be compared.
    left: Collected,
}

/// What a checker found at one cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferentialReport {
    /// Pages that the checker saw.
    pub seen: u64,
    /// Those of them that no source reported, in the order of slots and offsets.
    pub escapes: Vec<Escape>,
    /// How long the check took.
    pub elapsed: Duration,
}

impl Differential {
    /// A check of everything that is reported of `slots` by `checker`.
    #[must_use]
    pub fn new(checker: Box<dyn Source>, slots: &SlotTable, page_size: PageSize) -> Self {
        Self { checker, slots: slots.clone(), page_size, reports: None, left: Collected::new(slots) }
    }

    /// Has escapes name who reported them last, as the tracker [remembers](crate::Tracker::remember_reports) it.
    #[must_use]
    pub fn with_reports(self, reports: Reports) -> Self {
        Self { reports: Some(reports), ..self }
    }

    /// Starts the checker. Everything that the tracker does not report from now on has to be older: so this is called with
    /// the tracker armed, or before a base.
    ///
    /// # Errors
    /// The checker's.
    pub fn begin(&mut self) -> Result<(), SourceError> {
        self.left = Collected::new(&self.slots);
        self.checker.arm()
    }

    /// Asks the checker what was written since the last cut, and compares with the pages of the sealed epoch. The guest is
    /// stopped, and nothing else writes its memory.
    ///
    /// # Errors
    /// The checker's; what it had seen is compared next time.
    pub fn observe(&mut self, reported: &DirtyPages) -> Result<DifferentialReport, SourceError> {
        let begun = Instant::now();
        let mut collected = Collected::new(&self.slots);
        let sealed = self.checker.seal(&mut collected);
        // Before the error is looked at: the checker has forgotten these pages.
        self.left.union_with(&collected);
        sealed?;
        let seen = self.left.take();
        let mut escaped = seen.reported().clone();
        escaped.subtract(reported);
        let escapes = escaped.iter().filter_map(|(slot, offset)| {
            let gfn = self.slots.get(slot)?.gfn(offset)?;
            let last = self.reports.as_ref().and_then(|reports| reports.last(slot, offset));
            let ought = self.reports.as_ref().map_or(Sources::NONE, |reports| reports.ought(last));
            Some(Escape { slot, offset, gfn, page_size: self.page_size, last, ought })
        });
        let escapes = escapes.collect();
        Ok(DifferentialReport { seen: seen.reported().len(), escapes, elapsed: begun.elapsed() })
    }
}

impl std::fmt::Debug for Differential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Differential").field("checker", &self.checker.kind()).finish_non_exhaustive()
    }
}
