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
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use ringmark_dirty::{DirtyPages, PageSize, SlotId, SlotTable};
use ringmark_uffd::{Faults, Features, MissingPages, Userfaultfd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::ram::{MarkedMemory, Ram};
use marks::Marks;

pub(crate) use contents::Contents;
pub use error::{LazyError, LoadCause, LoadError};
pub(crate) use loading::Loading;

/// What is called, once, when the machine cannot go on.
type EndMachine = Box<dyn FnOnce(LoadError) + Send>;

/// Which pages of a memory have arrived, and the way to bring the others.
pub(crate) struct Arrival {
    /// In the order of the slots; `None` once the mapping is ordinary again. Before the memory: a registration ends before
    /// its mapping does.
    missing: RwLock<Option<Vec<MissingPages>>>,
    marks: Marks,
    page_size: PageSize,
    uffd: Arc<Userfaultfd>,
    contents: Box<dyn Contents>,
    /// Every page is there: reading the memory file is right for all of them.
    whole: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    faults: AtomicU64,
    _memory: MarkedMemory,
}

enum State {
    Loading {
        /// `None` before there is a machine.
        end: Option<EndMachine>,
    },
    Whole,
    Failed(LoadError),
    /// The machine has ended.
    Abandoned,
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
        let mut missing = Vec::new();
        for region in memory.iter() {
            let start = region.get_host_address(MemoryRegionAddress(0)).ok();
            let start = start.and_then(std::ptr::NonNull::new).ok_or(LazyError::NoMapping)?;
            let len = usize::try_from(region.len()).map_err(|_| LazyError::NoMapping)?;
            missing.push(register(&uffd, start, len).map_err(LazyError::Register)?);
        }
        Ok(Arc::new(Self {
            missing: RwLock::new(Some(missing)),
            marks: Marks::new(ram.slots()),
            page_size: ram.layout().page_size(),
            uffd,
            contents,
            whole: AtomicBool::new(false),
            state: Mutex::new(State::Loading { end: None }),
            changed: Condvar::new(),
            faults: AtomicU64::new(0),
            _memory: memory,
        }))
    }

    /// From here on a page that cannot be had ends the machine by `end`.
    ///
    /// # Errors
    /// A page could not be had already.
    pub(crate) fn ends_by(&self, end: EndMachine) -> Result<(), LoadError> {
        match &mut *self.lock() {
            State::Failed(error) => return Err(error.clone()),
            State::Loading { end: place } => *place = Some(end),
            State::Whole | State::Abandoned => {}
        }
        Ok(())
    }

    /// Why memory will never be whole, if so.
    pub(crate) fn failure(&self) -> Option<LoadError> {
        match &*self.lock() {
            State::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    pub(crate) fn progress(&self) -> ArrivalProgress {
        ArrivalProgress {
            placed: self.marks.placed(),
            faults: self.faults.load(Ordering::Relaxed),
            whole: self.whole.load(Ordering::Relaxed),
        }
    }

    /// Returns when the memory file holds pages `first .. first + count` of `slot`.
    ///
    /// # Errors
    /// A page that cannot be had.
    pub(crate) fn bring(&self, slot: SlotId, first: u64, count: u64) -> Result<(), LoadError> {
        if self.whole.load(Ordering::Acquire) {
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
        if !self.whole.load(Ordering::Acquire) {
            self.marks.outstanding(&mut pages);
        }
        pages
    }

    /// Waits until every page is there and the mapping is an ordinary one.
    ///
    /// # Errors
    /// A page that cannot be had, or the machine's end.
    pub(crate) fn wait(&self) -> Result<(), LoadError> {
        let mut state = self.lock();
        loop {
            match &*state {
                State::Loading { .. } => {}
                State::Whole => break,
                State::Failed(error) => return Err(error.clone()),
                State::Abandoned => return Err(LoadError::abandoned()),
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.let_go();
        Ok(())
    }

    /// The machine has ended: whoever waits for a page is let go, and finds zeros.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Loading { .. }) {
            *state = State::Abandoned;
        }
        drop(state);
        self.let_go();
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
        if let Some(error) = self.broken() {
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
            None if self.whole.load(Ordering::Acquire) => Ok(()),
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

    fn broken(&self) -> Option<LoadError> {
        match &*self.lock() {
            State::Failed(error) => Some(error.clone()),
            State::Abandoned => Some(LoadError::abandoned()),
            State::Loading { .. } | State::Whole => None,
        }
    }

    /// Every page with contents has been placed.
    fn complete(&self) {
        let mut state = self.lock();
        if !matches!(*state, State::Loading { .. }) {
            return;
        }
        *state = State::Whole;
        // Before the mapping is ordinary again: whoever writes a page that was never marked finds this set.
        self.whole.store(true, Ordering::Release);
        drop(state);
        self.let_go();
    }

    /// A page cannot be had: the machine ends, and only then is anyone let go who waits for a page.
    fn fail(&self, error: LoadError) {
        let mut state = self.lock();
        let State::Loading { end } = &mut *state else { return };
        let end = end.take();
        *state = State::Failed(error.clone());
        drop(state);
        if let Some(end) = end {
            end(error);
        }
        self.let_go();
    }

    /// Makes the mapping an ordinary one, which wakes everyone.
    fn let_go(&self) {
        // Under the lock, so that whoever comes second finds it done.
        *self.missing.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

#[allow(unsafe_code, reason = "the promise about the mapping is made here")]
fn register(
    uffd: &Arc<Userfaultfd>,
    start: std::ptr::NonNull<u8>,
    len: usize,
) -> std::io::Result<MissingPages> {
    // SAFETY: it is one region of guest memory, which is never referenced, only copied from and to, and which `Arrival`
    // holds for longer than the registration.
    unsafe { MissingPages::register(uffd, start, len) }
}
