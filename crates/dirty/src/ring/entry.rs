//! One entry of a dirty ring.

use crate::mutant::{self, Mutant};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Watch};

/// Set by the kernel: the entry names a dirty page (`KVM_DIRTY_GFN_F_DIRTY`).
pub const FLAG_DIRTY: u32 = 1;

/// Set by user space: the entry was harvested and may be reset (`KVM_DIRTY_GFN_F_RESET`).
pub const FLAG_RESET: u32 = 2;

/// One entry of a dirty ring: `struct kvm_dirty_gfn`, 16 bytes, shared between the two ends.
///
/// Every field is an atomic, so a `&Entry` may point into memory that a kernel or another process writes. The payload
/// (slot and offset) is accessed relaxed and is ordered by the flags alone:
///
/// | who | before | payload | after |
/// |---|---|---|---|
/// | [`Producer::push`](crate::Producer::push) | acquires its `reset_index` | writes | releases `DIRTY` |
/// | [`Harvester::harvest`](crate::Harvester::harvest) | acquires `DIRTY` | reads | releases `RESET` |
/// | [`Producer::reset_next`](crate::Producer::reset_next) | acquires `RESET` | reads | releases 0, then `reset_index` |
///
/// Each line's acquire pairs with the release of the line above it, and the first one's with the last one's; so
/// between any write of a payload and any other access to it there is a chain of release and acquire, and no pair
/// (slot, offset) is ever torn.
///
/// These methods are the raw access. They uphold the ordering, not the protocol: who may write what is for
/// [`Producer`](crate::Producer) and [`Harvester`](crate::Harvester) to keep, or for a test to break.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
    watch: Watch,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 16 && align_of::<Entry>() == 8);

impl Entry {
    /// The flags, load-acquire: what the other end wrote before its [`set_flags`](Self::set_flags) is visible after.
    #[must_use]
    #[inline]
    pub fn flags(&self) -> u32 {
        let order =
            if mutant::active(Mutant::FlagReadRelaxed) { Ordering::Relaxed } else { Ordering::Acquire };
        self.flags.load(order)
    }

    /// Sets the flags, store-release: pairs with the other end's [`flags`](Self::flags), which then sees every access
    /// made to the payload before this call as past.
    #[inline]
    pub fn set_flags(&self, flags: u32) {
        let order =
            if mutant::active(Mutant::FlagWrittenRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.flags.store(flags, order);
    }

    /// Hands the entry back although nothing is in it: sets [`FLAG_RESET`] unless [`FLAG_DIRTY`] is set by then, which is
    /// left alone; whether the entry was empty.
    ///
    /// One step, not two: an entry that is pushed between a look and a mark would be reset without anybody having read it.
    #[inline]
    pub fn hand_back_empty(&self) -> bool {
        let state = self.flags.fetch_update(Ordering::Release, Ordering::Acquire, |flags| {
            (flags & FLAG_DIRTY == 0).then_some(FLAG_RESET)
        });
        state.is_ok()
    }

    /// The slot as stored (see [`SlotId::from_raw`](crate::SlotId::from_raw)) and the offset in pages within it.
    ///
    /// Relaxed: only meaningful after [`flags`](Self::flags) has said that the payload is there.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> (u32, u64) {
        self.watch.read();
        (self.slot.load(Ordering::Relaxed), self.offset.load(Ordering::Relaxed))
    }

    /// Stores slot and offset, relaxed: published by the next [`set_flags`](Self::set_flags).
    #[inline]
    pub fn set_payload(&self, slot: u32, offset: u64) {
        self.watch.write();
        self.slot.store(slot, Ordering::Relaxed);
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// [`flags`](Self::flags) without the acquire: wrong, and there for the model that must catch it.
    #[cfg(loom)]
    #[must_use]
    pub fn flags_relaxed(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// [`set_flags`](Self::set_flags) without the release: wrong, and there for the model that must catch it.
    #[cfg(loom)]
    pub fn set_flags_relaxed(&self, flags: u32) {
        self.flags.store(flags, Ordering::Relaxed);
    }
}
