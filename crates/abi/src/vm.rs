//! What a virtual machine offers to whoever tracks its memory.

use std::fmt;

use ringmark_dirty::{PageSize, SlotId};

use crate::{Errno, MemoryRegion};

/// The argument of `KVM_ENABLE_CAP`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnableCap {
    /// The capability, one of [`cap`](crate::cap).
    pub cap: u32,
    /// Flags; every capability of dirty tracking but the ring itself refuses any.
    pub flags: u32,
    /// Arguments; their meaning is the capability's.
    pub args: [u64; 4],
}

impl EnableCap {
    /// `cap` with one argument and no flags.
    #[must_use]
    pub const fn new(cap: u32, arg: u64) -> Self {
        Self { cap, flags: 0, args: [arg, 0, 0, 0] }
    }
}

/// The ioctls of a VM file descriptor that dirty tracking needs, with the kernel's rules and error numbers.
///
/// All calls may be made from any thread. The kernel serialises them by its `slots_lock`; what it does *not* serialise
/// is the TLB flush of [`reset_dirty_rings`](Self::reset_dirty_rings), which comes after the lock is dropped, so a
/// caller holds one lock of its own over harvest, reset and the decision to read pages.
pub trait Vm: Send + Sync + fmt::Debug {
    /// The granule of dirty tracking: the page size of the host.
    fn page_size(&self) -> PageSize;

    /// `KVM_CHECK_EXTENSION`: 0 means absent; for the two ring capabilities the value is the largest ring in bytes.
    ///
    /// # Errors
    /// None that the kernel documents; a dead VM gives `EIO`.
    fn check_extension(&self, cap: u32) -> Result<u64, Errno>;

    /// `KVM_ENABLE_CAP`.
    ///
    /// # Errors
    /// `EINVAL` for an unknown capability, a wrong argument or a wrong moment; `E2BIG` for a ring over 1 MiB.
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno>;

    /// `KVM_SET_USER_MEMORY_REGION`: creates, moves, re-flags or (size 0) deletes a memslot.
    ///
    /// # Safety
    /// `userspace_addr .. userspace_addr + memory_size` is memory that may be read and written by the guest at any
    /// time, and stays mapped until the slot is deleted or the VM and all its vCPUs are dropped.
    ///
    /// # Errors
    /// `EINVAL`, `EEXIST` for an overlap, `ENOMEM`: `kvm_set_memory_region`.
    #[expect(unsafe_code, reason = "the slot's memory is the caller's promise, as it is the kernel's")]
    unsafe fn set_user_memory_region(&self, region: &MemoryRegion) -> Result<(), Errno>;

    /// Changes the flags of an existing slot and nothing else: the only safe way to switch logging on and off.
    ///
    /// Switching [`mem::LOG_DIRTY_PAGES`](crate::mem::LOG_DIRTY_PAGES) on write-protects every page of the slot before
    /// it returns, unless `INITIALLY_SET` is in force.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot (ours; the kernel has no such call), else as `KVM_SET_USER_MEMORY_REGION`.
    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno>;

    /// `KVM_GET_DIRTY_LOG` into `bitmap`, bit *i* of word *i / 64* being page *i* of the slot.
    ///
    /// It is destructive even when it fails: after any error the whole slot counts as dirty.
    ///
    /// # Errors
    /// `ENXIO` with a ring and no backup bitmap; `ENOENT` for a slot that is absent or not logging; `EINVAL` for a slot
    /// number out of range, and (ours, before the kernel is asked) for a `bitmap` shorter than the slot's.
    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno>;

    /// `KVM_CLEAR_DIRTY_LOG`: clears and re-protects the pages whose bits are set, bit 0 being `first_page`.
    ///
    /// # Errors
    /// As [`get_dirty_log`](Self::get_dirty_log), and `EINVAL` unless `first_page` is a multiple of 64 and `num_pages` a
    /// multiple of 64 or up to the slot's end.
    fn clear_dirty_log(
        &self,
        slot: SlotId,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno>;

    /// `KVM_RESET_DIRTY_RINGS`: gives harvested entries back and re-protects their pages; the sum over all rings.
    ///
    /// A kernel since 6.16 stops early when a signal is pending and then *loses* pages it has counted (field note H1):
    /// call it with every signal blocked and compare the count with what was harvested.
    ///
    /// # Errors
    /// `EINVAL` without a ring.
    fn reset_dirty_rings(&self) -> Result<u32, Errno>;
}
