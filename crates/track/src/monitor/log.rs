//! The log: a bitmap a memslot.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{AtomicBitmap, PageSize, SlotId, SlotTable};

use super::WriteGuard;
use crate::{Collected, Source, SourceError, SourceKind};

/// Which pages the monitor itself has written: device models, the loader, completed reads into guest memory.
///
/// Handles are cheap to clone and may be used from any thread; marking takes no lock. A page is marked *after* its
/// write is complete: a mark made before could be harvested, and the page read, before the data is there. With
/// vm-memory, regions built over a [`SlotLog`] mark by themselves; whoever writes through a raw pointer takes a
/// [`WriteGuard`].
///
/// # Ordering
/// A mark is a release and the harvest takes the words with acquire, so whoever reads a harvested page sees the write
/// that was marked. A write that races with a harvest is either seen, or marked afterwards and harvested next time,
/// or both.
#[derive(Clone, Debug)]
pub struct MonitorLog {
    page_size: PageSize,
    slots: Arc<[SlotLog]>,
}

/// The part of a [`MonitorLog`] that belongs to one memslot; offsets are bytes from the slot's start.
#[derive(Clone)]
pub struct SlotLog {
    inner: Arc<Inner>,
}

struct Inner {
    slot: SlotId,
    page_size: PageSize,
    npages: u64,
    bitmap: AtomicBitmap,
    /// Write guards alive.
    writing: AtomicUsize,
}

impl MonitorLog {
    /// A log over the memslots of `slots`.
    #[must_use]
    pub fn new(slots: &SlotTable, page_size: PageSize) -> Self {
        let log = |slot: &ringmark_dirty::Memslot| SlotLog {
            inner: Arc::new(Inner {
                slot: slot.id,
                page_size,
                npages: slot.npages,
                bitmap: AtomicBitmap::new(slot.npages),
                writing: AtomicUsize::new(0),
            }),
        };
        Self { page_size, slots: slots.iter().map(log).collect() }
    }

    /// The log of memslot `id`.
    #[must_use]
    pub fn slot(&self, id: SlotId) -> Option<&SlotLog> {
        self.slots.iter().find(|log| log.inner.slot == id)
    }

    /// The granule of the log.
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The log as a source, to be given to [`Tracker::add_source`](crate::Tracker::add_source). Once: two sources
    /// over one log would share out its pages between them.
    #[must_use]
    pub fn source(&self) -> MonitorSource {
        MonitorSource { log: self.clone() }
    }
}

impl SlotLog {
    /// The memslot.
    #[must_use]
    pub fn id(&self) -> SlotId {
        self.inner.slot
    }

    /// Marks the pages of the `len` bytes at byte `offset` as written; to be called when the write is complete.
    ///
    /// What lies past the slot's end is not guest memory, and nothing is marked for it; a length of 0 marks nothing.
    pub fn mark(&self, offset: u64, len: u64) {
        let Inner { page_size, npages, bitmap, .. } = &*self.inner;
        let taken_for = if mutant::active(Mutant::PagesOf4096) { PageSize::new(1 << 12) } else { None };
        let page_size = taken_for.as_ref().unwrap_or(page_size);
        let first = page_size.pages_in(offset);
        if len == 0 || first >= *npages {
            return;
        }
        let len = if mutant::active(Mutant::FirstPageMarkedOnly) { 1 } else { len };
        let last = page_size.pages_in(offset.saturating_add(len - 1)).min(npages - 1);
        bitmap.set_range(first..last + 1);
    }

    /// Whether the page of byte `offset` is marked; false past the slot's end.
    #[must_use]
    pub fn is_marked(&self, offset: u64) -> bool {
        let page = self.inner.page_size.pages_in(offset);
        page < self.inner.npages && self.inner.bitmap.test(page)
    }

    /// Announces a write of `len` bytes at byte `offset` that goes through a raw pointer; see [`WriteGuard`].
    #[must_use = "the guard marks when it is dropped: keep it until the write is complete"]
    pub fn write(&self, offset: u64, len: u64) -> WriteGuard {
        WriteGuard::new(self.clone(), offset, len)
    }

    pub(super) fn begin_write(&self) {
        self.inner.writing.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_write(&self) {
        // Release: whoever sees the count fall (acquire, in `seal`) sees the mark that came before.
        self.inner.writing.fetch_sub(1, Ordering::Release);
    }
}

impl fmt::Debug for SlotLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotLog").field("slot", &self.inner.slot).field("npages", &self.inner.npages).finish()
    }
}

/// A [`MonitorLog`] as a [`Source`].
#[derive(Debug)]
pub struct MonitorSource {
    log: MonitorLog,
}

impl MonitorSource {
    fn marked(&self) -> u64 {
        let logs = self.log.slots.iter();
        logs.flat_map(|log| (0..log.inner.bitmap.words()).map(|word| log.inner.bitmap.load_word(word)))
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    fn collect(&self, mut page: impl FnMut(SlotId, u64)) {
        for SlotLog { inner } in &*self.log.slots {
            for word in 0..inner.bitmap.words() {
                // Most words are empty, and a load leaves the cache line shared.
                if inner.bitmap.load_word(word) == 0 {
                    continue;
                }
                let mut bits = inner.bitmap.swap_word(word, 0);
                while bits != 0 {
                    page(inner.slot, word as u64 * 64 + u64::from(bits.trailing_zeros()));
                    bits &= bits - 1;
                }
            }
        }
    }
}

impl Source for MonitorSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Monitor
    }

    fn arm(&mut self) -> Result<(), SourceError> {
        self.collect(|_, _| {});
        Ok(())
    }

    fn harvest(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        if mutant::active(Mutant::MonitorMarksSkipped) {
            return Ok(());
        }
        self.collect(|slot, offset| {
            if into.insert(slot, offset).is_err() {
                into.suspect(slot);
            }
        });
        Ok(())
    }

    fn seal(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        let writes = self.log.slots.iter().map(|log| log.inner.writing.load(Ordering::Acquire)).sum();
        if writes > 0 && !mutant::active(Mutant::SealUnderWriters) {
            return Err(SourceError::WriterActive { writes });
        }
        self.harvest(into)
    }

    fn pending(&mut self) -> Option<u64> {
        Some(self.marked())
    }

    fn unchanged_since_seal(&mut self) -> Result<(), SourceError> {
        match self.marked() {
            0 => Ok(()),
            pages => Err(SourceError::WrittenAfterSeal { pages, who: self.kind() }),
        }
    }

    /// Nothing to do: marking goes on, and arming forgets it.
    fn disarm(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}
