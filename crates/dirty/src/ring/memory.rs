//! Where the entries of a ring live.

use alloc::{boxed::Box, sync::Arc};

use crate::Entry;

/// The memory of a ring: an array of entries that both ends see.
///
/// Implemented for slices of entries and whatever owns one; a mapping of a kernel's ring implements it too.
/// Every call returns the same memory: an implementation that changed its length would not be unsound, but its ring
/// would lose pages.
pub trait RingMemory: Send + Sync {
    /// All entries; their number is a power of two.
    fn entries(&self) -> &[Entry];
}

impl RingMemory for [Entry] {
    fn entries(&self) -> &[Entry] {
        self
    }
}

impl<T: RingMemory + ?Sized> RingMemory for &T {
    fn entries(&self) -> &[Entry] {
        (**self).entries()
    }
}

impl<T: RingMemory + ?Sized> RingMemory for Box<T> {
    fn entries(&self) -> &[Entry] {
        (**self).entries()
    }
}

impl<T: RingMemory + ?Sized> RingMemory for Arc<T> {
    fn entries(&self) -> &[Entry] {
        (**self).entries()
    }
}

/// Why memory cannot be a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Indices are free-running 32-bit counters, and the slot is their lower bits.
    #[error("a ring of {0} entries; the number of entries must be a power of two, at most 2147483648")]
    Length(usize),
    /// No entry is left below the soft limit: the ring would be full from the start.
    #[error("a ring of {size} entries with {reserve} in reserve is always full; use a larger ring")]
    Reserve {
        /// Entries in the ring.
        size: u32,
        /// Entries asked to be kept free.
        reserve: u32,
    },
}

/// Memory of an empty ring of `entries` entries, on the heap.
///
/// Any length is allocated; [`Producer::new`](crate::Producer::new) and [`Harvester::new`](crate::Harvester::new)
/// refuse the ones that are no power of two.
#[must_use]
pub fn allocate(entries: u32) -> Box<[Entry]> {
    (0..entries).map(|_| Entry::default()).collect()
}

/// The number of entries of `memory`, checked.
pub(super) fn size_of_ring(memory: &(impl RingMemory + ?Sized)) -> Result<u32, RingError> {
    let length = memory.entries().len();
    match u32::try_from(length) {
        Ok(size) if size.is_power_of_two() => Ok(size),
        _ => Err(RingError::Length(length)),
    }
}

/// The entry that the free-running `index` falls on.
#[inline]
pub(super) fn entry_at(entries: &[Entry], index: u32) -> &Entry {
    &entries[index as usize & (entries.len() - 1)]
}
