//! Memory that arrives while the guest runs.
//!
//! ```text
//!  vCPU, device, monitor ── touches a page that is not there ──▶ stops in the fault
//!                                                                  │ userfaultfd
//!  Contents (an image) ──▶ servers: the page that is waited for ───┤
//!                     └──▶ loader: the working set, then the rest ─┴──▶ the memory file, page by page, never over another
//! ```
//!
//! [`Arrival`] knows of each page whether it is there; [`Loading`] owns the threads that bring pages.
//!
//! # What is promised
//! * A page is placed whole, with contents whose hash was checked, or not at all (`mfill_atomic`).
//! * Whoever reads memory beside the mapping (`pread` of the memory file finds a hole, and a hole reads as zero) asks for
//!   the pages [first](Arrival::bring).
//! * A page is [outstanding](Arrival::outstanding) only while nobody can have written it: the mark is made *before* the page
//!   is placed, and a write needs the page. So outstanding pages may be left out of an increment to the image they come
//!   from, and nothing else may.
//! * A page that cannot be had ends the machine: it is marked as ended and every vCPU is kicked *before* whoever waits for
//!   the page is let go. A vCPU in `KVM_RUN` then leaves with the signal; a software vCPU leaves at its next step. Memory
//!   of an ended machine is in no image.
//!
//! # Who waits for whom
//! A vCPU, a device thread or a monitor thread waits for a server; a server waits for the store alone: it touches no guest
//! memory, takes no lock that is held by who waits for a page, and has every signal blocked. So each page is answered as
//! soon as the store has answered or has given up, or the machine ends, which lets everyone go at once. A vCPU that waits
//! inside `KVM_RUN` can be stopped meanwhile, too: the kernel waits there interruptibly (`FOLL_INTERRUPTIBLE`), and a kick
//! is a signal.

mod contents;
mod error;
mod loading;
mod marks;
mod outcome;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ringmark_dirty::{DirtyPages, PageSize, SlotId, SlotTable};
use ringmark_uffd::{Faults, Features, MissingPages, Userfaultfd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::ram::{MarkedMemory, Ram};
use marks::Marks;

pub(crate) use contents::Contents;
#[cfg(test)]
pub(crate) use contents::Place;
pub use error::{LazyError, LoadCause, LoadError};
pub(crate) use loading::{Loading, SERVERS};
pub(crate) use outcome::{Arriving, Outcome};

/// Which pages of a memory have arrived, and the way to bring the others.
pub(crate) struct Arrival {
    /// In the order of the slots; `None` once the mapping is ordinary again. Before the memory: a registration ends before
    /// its mapping does.
    missing: RwLock<Option<Vec<MissingPages>>>,
    marks: Marks,
    page_size: PageSize,
    uffd: Arc<Userfaultfd>,
    contents: Box<dyn Contents>,
    outcome: Outcome,
    faults: AtomicU64,
    _memory: MarkedMemory,
}

/// How far a memory has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalProgress {
    /// Pages placed so far; pages that are zero are placed only where somebody touches them.
    pub placed: u64,
    /// Times that somebody waited for a page.
    pub faults: u64,
    /// Whether everything is there.
    pub whole: bool,
}

impl Arrival {
    /// Makes every page of `ram`, which is empty, one that is still to come from `contents`. Faults are answered once
    /// [`Loading`] runs.
    ///
    /// `faults`: those of the kernel too where a vCPU of `/dev/kvm` runs on this memory.
    ///
    /// # Errors
    /// Where this host's userfaultfd cannot do it.
    pub(crate) fn begin(
        ram: &Ram,
        contents: Box<dyn Contents>,
        faults: Faults,
    ) -> Result<Arc<Self>, LazyError> {
        let uffd = Arc::new(Userfaultfd::open(faults, Features::MISSING_SHMEM)?);
        let memory = ram.guest().clone();
        let missing = register_all(&uffd, &memory)?;
        Ok(Arc::new(Self {
            missing: RwLock::new(Some(missing)),
            marks: Marks::new(ram.slots()),
            page_size: ram.layout().page_size(),
            uffd,
            contents,
            outcome: Outcome::default(),
            faults: AtomicU64::new(0),
            _memory: memory,
        }))
    }

    pub(crate) fn progress(&self) -> ArrivalProgress {
        ArrivalProgress {
            placed: self.marks.placed(),
            faults: self.faults.load(Ordering::Relaxed),
            whole: self.outcome.is_whole(),
        }
    }

    /// Returns when the memory file holds pages `first .. first + count` of `slot`.
    ///
    /// # Errors
    /// A page that cannot be had.
    pub(crate) fn bring(&self, slot: SlotId, first: u64, count: u64) -> Result<(), LoadError> {
        if self.outcome.is_whole() {
            return Ok(());
        }
        let result = (first..first.saturating_add(count))
            .filter(|offset| !self.marks.has_arrived(slot, *offset))
            .try_for_each(|offset| self.load(slot, offset));
        result.inspect_err(|error| self.fail(error.clone()))
    }

    /// Pages that nobody can have written since the cut of the image, because they are not there.
    pub(crate) fn outstanding(&self, slots: &SlotTable) -> DirtyPages {
        let mut pages = DirtyPages::new(slots);
        // Whoever wrote a page found it placed, and so after its mark; or found the mapping ordinary again, and so after
        // `whole`. Both are acquired here, and what the caller knows to be written was written before.
        if !self.outcome.is_whole() {
            self.marks.outstanding(&mut pages);
        }
        pages
    }

    /// Answers whoever waits for the page at `address`.
    fn serve(&self, address: u64) {
        let Some((at, slot, offset)) = self.locate(address) else { return };
        self.faults.fetch_add(1, Ordering::Relaxed);
        if !self.marks.has_arrived(slot, offset)
            && let Err(error) = self.load(slot, offset)
        {
            return self.fail(error);
        }
        // A page of zeros, or one that is there already: then this merely wakes.
        let placed = self.with_missing(|missing| {
            self.marks.begin(slot, offset..offset + 1);
            missing[at].zero(offset << self.page_size.shift(), self.page_size.bytes())?;
            self.marks.arrive(slot, offset..offset + 1);
            Ok(())
        });
        if let Err(cause) = placed {
            self.fail(LoadError::page(slot, offset, cause));
        }
    }

    /// Places page `offset` of `slot`, with what comes with it; a page of zeros is left a hole.
    fn load(&self, slot: SlotId, offset: u64) -> Result<(), LoadError> {
        let failed = |cause| LoadError::page(slot, offset, cause);
        if let Some(error) = self.outcome.broken() {
            return Err(error);
        }
        let place = |slot, first, bytes: &[u8]| self.place(slot, first, bytes);
        self.contents.page(slot, offset, &place).map_err(failed)?;
        self.marks.arrive(slot, offset..offset + 1);
        Ok(())
    }

    /// Places every page of `pages` that is not there yet.
    fn load_all(&self, pages: &DirtyPages) -> Result<(), LoadError> {
        let place = |slot, first, bytes: &[u8]| self.place(slot, first, bytes);
        self.contents.pages(pages, &place).map_err(LoadError::background)
    }

    /// Places `bytes` from page `first` of `slot` on, where nothing has arrived yet.
    fn place(&self, slot: SlotId, first: u64, bytes: &[u8]) -> Result<(), LoadCause> {
        let shift = self.page_size.shift();
        let Some(at) = self.marks.position(slot) else {
            return Err(LoadCause::NoSuchPage { slot, offset: first });
        };
        let count = bytes.len() as u64 >> shift;
        for run in self.marks.missing_runs(slot, first..first + count) {
            let start = usize::try_from((run.start - first) << shift).unwrap_or(usize::MAX);
            let end = usize::try_from((run.end - first) << shift).unwrap_or(usize::MAX);
            let Some(bytes) = bytes.get(start..end) else {
                return Err(LoadCause::NoSuchPage { slot, offset: run.start });
            };
            self.with_missing(|missing| {
                self.marks.begin(slot, run.clone());
                missing[at].fill(run.start << shift, bytes)?;
                self.marks.arrive(slot, run.clone());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Places pages while that is possible. Once memory is whole there is nothing to place.
    fn with_missing(
        &self,
        place: impl FnOnce(&[MissingPages]) -> Result<(), LoadCause>,
    ) -> Result<(), LoadCause> {
        let missing = self.missing.read().unwrap_or_else(PoisonError::into_inner);
        match &*missing {
            Some(missing) => place(missing),
            None if self.outcome.is_whole() => Ok(()),
            None => Err(LoadCause::Abandoned),
        }
    }

    fn locate(&self, address: u64) -> Option<(usize, SlotId, u64)> {
        let missing = self.missing.read().unwrap_or_else(PoisonError::into_inner);
        missing.as_ref()?.iter().enumerate().find_map(|(at, pages)| {
            let offset = self.page_size.pages_in(pages.offset_of(address)?);
            Some((at, self.marks.slot(at)?, offset))
        })
    }
}

impl Arriving for Arrival {
    fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    fn let_go(&self) {
        // Under the lock, so that whoever comes second finds it done.
        *self.missing.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl AsFd for Arrival {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

/// Makes every page of `memory` that is not there one that whoever touches it waits for; in the order of the slots. The
/// caller holds the memory for longer than the registrations.
pub(crate) fn register_all(
    uffd: &Arc<Userfaultfd>,
    memory: &MarkedMemory,
) -> Result<Vec<MissingPages>, LazyError> {
    let mut missing = Vec::new();
    for region in memory.iter() {
        let start = region.get_host_address(MemoryRegionAddress(0)).ok();
        let start = start.and_then(std::ptr::NonNull::new).ok_or(LazyError::NoMapping)?;
        let len = usize::try_from(region.len()).map_err(|_| LazyError::NoMapping)?;
        missing.push(register(uffd, start, len).map_err(LazyError::Register)?);
    }
    Ok(missing)
}

#[allow(unsafe_code, reason = "the promise about the mapping is made here")]
fn register(
    uffd: &Arc<Userfaultfd>,
    start: std::ptr::NonNull<u8>,
    len: usize,
) -> std::io::Result<MissingPages> {
    // SAFETY: it is one region of guest memory, which is never referenced, only copied from and to, and which the
    // caller of `register_all` holds for longer than the registration.
    unsafe { MissingPages::register(uffd, start, len) }
}
