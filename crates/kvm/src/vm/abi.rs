//! The interface of dirty tracking on a VM's file descriptor.

#![allow(unsafe_code, reason = "ioctls with buffers of the caller's")]

use std::ffi::c_ulong;

use kvm_bindings::{kvm_enable_cap, kvm_userspace_memory_region};
use ringmark_abi::{EnableCap, Errno, MemoryRegion, cap};
use ringmark_dirty::{PageSize, SlotId};

use super::{Book, Vm};
use crate::{errno, ioctl};

impl ringmark_abi::Vm for Vm {
    fn page_size(&self) -> PageSize {
        self.host_page_size()
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        u64::try_from(self.fd().check_extension_raw(c_ulong::from(cap))).map_err(|_| errno::last())
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        let mut book = self.book();
        let raw = kvm_enable_cap { cap: cap.cap, flags: cap.flags, args: cap.args, ..Default::default() };
        self.fd().enable_cap(&raw).map_err(errno::of)?;
        if matches!(cap.cap, cap::DIRTY_LOG_RING | cap::DIRTY_LOG_RING_ACQ_REL) {
            // kvm_vm_ioctl_enable_dirty_log_ring takes the size as a u32 and drops the rest, so this must too.
            book.ring_bytes = u32::try_from(cap.args[0] & u64::from(u32::MAX)).unwrap_or(0);
        }
        Ok(())
    }

    unsafe fn set_user_memory_region(&self, region: &MemoryRegion) -> Result<(), Errno> {
        // SAFETY: what this function asks of its caller is what that one asks.
        unsafe { self.apply_region(&mut self.book(), region) }
    }

    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno> {
        let mut book = self.book();
        let region = book.regions.get(&slot).copied().ok_or(Errno::ENOENT)?;
        // SAFETY: same slot, same memory: whoever made the slot promised it until the slot is deleted, and the slot
        // is in the book because it is not.
        unsafe { self.apply_region(&mut book, &MemoryRegion { flags, ..region }) }
    }

    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno> {
        // Held until the kernel is done: the slot cannot be replaced by a larger one in between.
        let book = self.book();
        let Some(region) = book.regions.get(&slot) else {
            // The kernel has the word on what is wrong with the slot, but nowhere to write.
            // SAFETY: address 0 is never mapped, so the kernel can write nothing.
            return unsafe { self.get_dirty_log_at(slot, 0) };
        };
        let words = self.host_page_size().pages_in(region.memory_size).div_ceil(64);
        if u64::try_from(bitmap.len()).unwrap_or(u64::MAX) < words {
            return Err(Errno::EINVAL);
        }
        // SAFETY: `bitmap` has the `words` words that kvm_get_dirty_log_protect writes for this slot.
        unsafe { self.get_dirty_log_at(slot, bitmap.as_mut_ptr().expose_provenance()) }
    }

    fn clear_dirty_log(
        &self,
        slot: SlotId,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno> {
        if u64::try_from(bitmap.len()).unwrap_or(u64::MAX) < u64::from(num_pages).div_ceil(64) {
            return Err(Errno::EINVAL);
        }
        self.clear_dirty_log_at(slot, first_page, num_pages, bitmap.as_ptr().expose_provenance())
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.reset_dirty_rings_with(0)
    }
}

impl Vm {
    /// `KVM_SET_USER_MEMORY_REGION`, remembered once the kernel agreed.
    ///
    /// # Safety
    /// As [`ringmark_abi::Vm::set_user_memory_region`].
    unsafe fn apply_region(&self, book: &mut Book, region: &MemoryRegion) -> Result<(), Errno> {
        let raw = kvm_userspace_memory_region {
            slot: region.slot.raw(),
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
        };
        // SAFETY: the request reads one kvm_userspace_memory_region; its memory is the caller's promise.
        unsafe { ioctl::read(self.fd(), ioctl::KVM_SET_USER_MEMORY_REGION(), &raw) }?;
        if region.memory_size == 0 {
            book.regions.remove(&region.slot);
        } else {
            book.regions.insert(region.slot, *region);
        }
        Ok(())
    }
}
