//! What was pushed, remembered where user space cannot change it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ringmark_dirty::SlotId;

#[derive(Debug, Default)]
struct Pushed {
    slot: AtomicU32,
    offset: AtomicU64,
}

/// A copy of a ring's payloads, for strict mode: user space may overwrite an entry, and the engine must still know
/// which page it was about.
#[derive(Debug)]
pub(crate) struct Shadow {
    entries: Box<[Pushed]>,
}

impl Shadow {
    /// For a ring of `size` entries.
    pub(crate) fn new(size: u32) -> Self {
        Self { entries: (0..size).map(|_| Pushed::default()).collect() }
    }

    fn entry(&self, index: u32) -> &Pushed {
        &self.entries[index as usize & (self.entries.len() - 1)]
    }

    pub(crate) fn set(&self, index: u32, slot: SlotId, offset: u64) {
        let entry = self.entry(index);
        entry.slot.store(slot.raw(), Ordering::Relaxed);
        entry.offset.store(offset, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, index: u32) -> (SlotId, u64) {
        let entry = self.entry(index);
        (SlotId::from_raw(entry.slot.load(Ordering::Relaxed)), entry.offset.load(Ordering::Relaxed))
    }
}
