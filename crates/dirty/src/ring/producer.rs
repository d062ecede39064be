//! The kernel's end of a ring.

use core::fmt;

use super::memory::{entry_at, size_of_ring};
use crate::sync::{AtomicU32, Ordering};
use crate::{FLAG_DIRTY, FLAG_RESET, RingError, RingMemory, SlotId};

/// The kernel's end of a ring: pushes dirty pages and resets harvested entries (`virt/kvm/dirty_ring.c`).
///
/// Two free-running counters say where it stands: `dirty_index`, the next entry to write, and `reset_index`, the next
/// to reset. Their difference is the number of entries in use. Neither is visible to user space.
///
/// # Concurrency
///
/// One thread pushes at a time (a vCPU writes its own ring) and one resets at a time (KVM holds `slots_lock`); the two
/// may be different threads and run at once, and a harvester may run beside them. They cannot meet on an entry: the
/// pusher writes entry `dirty_index`, the resetter only touches entries from `reset_index` on that user space has
/// marked, which lie before `dirty_index`; and the pusher comes around to an entry only after it has acquired a
/// `reset_index` that was released after the entry was done with. The exception is a ring that is hard full, where the
/// push goes ahead as in the kernel and destroys the oldest entry; [`Pushed::overwrote`] says so.
///
/// A caller that breaks these rules gets wrong entries, never undefined behaviour.
pub struct Producer<M> {
    memory: M,
    size: u32,
    soft_limit: u32,
    /// Written by the pusher alone, so its own loads may be relaxed; to others it is only a number.
    dirty_index: AtomicU32,
    /// Written by the resetter alone: its store-release pairs with the load-acquire in `push`.
    reset_index: AtomicU32,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Entries in use before it.
    pub used_before: u32,
    /// Whether the ring is now at its soft limit: the vCPU must exit before it next enters the guest.
    pub soft_full: bool,
    /// Whether the ring was hard full, so that the oldest entry was overwritten and its page lost.
    pub overwrote: bool,
}

impl<M: RingMemory> Producer<M> {
    /// An empty ring over `memory` that is soft-full while no more than `reserve` entries are free.
    ///
    /// KVM keeps 64 entries in reserve, and 512 more with a page-modification log.
    ///
    /// # Errors
    /// If the length of `memory` is no power of two, or `reserve` leaves nothing.
    pub fn new(memory: M, reserve: u32) -> Result<Self, RingError> {
        let size = size_of_ring(&memory)?;
        if reserve >= size {
            return Err(RingError::Reserve { size, reserve });
        }
        Ok(Self {
            memory,
            size,
            soft_limit: size - reserve,
            dirty_index: AtomicU32::new(0),
            reset_index: AtomicU32::new(0),
        })
    }

    /// An empty ring whose counters both stand at `index`, which a pushed ring reaches only after days.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[cfg(any(test, loom))]
    pub fn starting_at(memory: M, reserve: u32, index: u32) -> Result<Self, RingError> {
        let mut ring = Self::new(memory, reserve)?;
        (ring.dirty_index, ring.reset_index) = (AtomicU32::new(index), AtomicU32::new(index));
        Ok(ring)
    }

    /// The memory of the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Entries in the ring.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Entries in use from which on the ring is soft-full.
    pub fn soft_limit(&self) -> u32 {
        self.soft_limit
    }

    /// The free-running index of the next entry to write.
    pub fn dirty_index(&self) -> u32 {
        self.dirty_index.load(Ordering::Relaxed)
    }

    /// The free-running index of the next entry to reset.
    pub fn reset_index(&self) -> u32 {
        self.reset_index.load(Ordering::Acquire)
    }

    /// Entries pushed and not yet reset, harvested or not; more than [`size`](Self::size) once entries were lost.
    ///
    /// Exact for the pusher while nobody resets; for others a number that was right a moment ago.
    pub fn used(&self) -> u32 {
        let reset = self.reset_index();
        self.dirty_index().wrapping_sub(reset)
    }

    /// Whether the ring is at its soft limit (`kvm_dirty_ring_soft_full`).
    pub fn is_soft_full(&self) -> bool {
        self.used() >= self.soft_limit
    }

    /// Writes one entry (`kvm_dirty_ring_push`): `offset` pages into `slot` is dirty.
    ///
    /// As in the kernel, a hard-full ring is written all the same, over its oldest entry.
    pub fn push(&self, slot: SlotId, offset: u64) -> Pushed {
        let index = self.dirty_index();
        // Acquire in `reset_index`: the resetter and the harvester before it are done with this entry's last payload.
        let used_before = index.wrapping_sub(self.reset_index());
        let entry = entry_at(self.memory.entries(), index);
        entry.set_payload(slot.raw(), offset);
        entry.set_flags(FLAG_DIRTY);
        self.dirty_index.store(index.wrapping_add(1), Ordering::Relaxed);
        Pushed {
            used_before,
            soft_full: used_before.wrapping_add(1) >= self.soft_limit,
            overwrote: used_before >= self.size,
        }
    }

    /// Takes one harvested entry back (a step of `kvm_dirty_ring_reset`): its raw slot and offset, which the caller
    /// checks and re-protects, or `None` if the next entry was not marked.
    ///
    /// As in the kernel only [`FLAG_RESET`] is looked at, and not whether the entry was ever pushed.
    pub fn reset_next(&self) -> Option<(u32, u64)> {
        let index = self.reset_index.load(Ordering::Relaxed);
        let entry = entry_at(self.memory.entries(), index);
        if entry.flags() & FLAG_RESET == 0 {
            return None;
        }
        let payload = entry.payload();
        entry.set_flags(0);
        self.reset_index.store(index.wrapping_add(1), Ordering::Release);
        Some(payload)
    }
}

impl<M> fmt::Debug for Producer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("size", &self.size)
            .field("soft_limit", &self.soft_limit)
            .field("dirty_index", &self.dirty_index)
            .field("reset_index", &self.reset_index)
            .finish_non_exhaustive()
    }
}
