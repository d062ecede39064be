//! The log as a bitmap of vm-memory's regions.

use std::fmt;

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

use super::SlotLog;

/// The part of a [`SlotLog`] that starts at a byte offset: what vm-memory hands to a volatile slice.
#[derive(Clone)]
pub struct SlotLogSlice {
    log: SlotLog,
    base: usize,
}

impl fmt::Debug for SlotLogSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotLogSlice").field("slot", &self.log.id()).field("base", &self.base).finish()
    }
}

impl WithBitmapSlice<'_> for SlotLog {
    type S = SlotLogSlice;
}

/// vm-memory calls `mark_dirty` after each write it makes, and never for a write through `as_ptr`: for those there is
/// [`SlotLog::write`].
impl Bitmap for SlotLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.mark(offset as u64, len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.is_marked(offset as u64)
    }

    fn slice_at(&self, offset: usize) -> SlotLogSlice {
        SlotLogSlice { log: self.clone(), base: offset }
    }
}

impl WithBitmapSlice<'_> for SlotLogSlice {
    type S = Self;
}

impl BitmapSlice for SlotLogSlice {}

impl Bitmap for SlotLogSlice {
    fn mark_dirty(&self, offset: usize, len: usize) {
        // An offset past the end of memory saturates, and marks nothing.
        self.log.mark(self.base.saturating_add(offset) as u64, len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.log.is_marked(self.base.saturating_add(offset) as u64)
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { log: self.log.clone(), base: self.base.saturating_add(offset) }
    }
}
