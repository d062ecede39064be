//! Ioctls of dirty tracking with arguments that the safe interface does not let through.
//!
//! They exist for the behaviour suite, which asks the kernel about addresses and arguments that a monitor never uses.

#![allow(unsafe_code, reason = "ioctls with addresses of the caller's")]

use std::ffi::{c_ulong, c_void};
use std::ptr;

use kvm_bindings::{
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
};
use ringmark_abi::Errno;
use ringmark_dirty::SlotId;

use super::Vm;
use crate::ioctl;

impl Vm {
    /// `KVM_GET_DIRTY_LOG` to the user address `address`, unchecked.
    ///
    /// # Safety
    /// `ceil(npages / 64)` 64-bit words at `address` belong to the caller and may be written, or the address is not
    /// mapped at all, which the kernel answers with `EFAULT` (after it has cleared the bits).
    ///
    /// # Errors
    /// As [`ringmark_abi::Vm::get_dirty_log`], and `EFAULT`.
    pub unsafe fn get_dirty_log_at(&self, slot: SlotId, address: usize) -> Result<(), Errno> {
        let log = kvm_dirty_log {
            slot: slot.raw(),
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: user_pointer(address) },
        };
        // SAFETY: the request reads one kvm_dirty_log; the memory it writes to is the caller's promise.
        unsafe { ioctl::read(self.fd(), ioctl::KVM_GET_DIRTY_LOG(), &log) }.map(drop)
    }

    /// `KVM_CLEAR_DIRTY_LOG` with its bits at the user address `address`, unchecked.
    ///
    /// The kernel only reads there, and by a copy that fails where nothing is mapped: any address is sound.
    ///
    /// # Errors
    /// As [`ringmark_abi::Vm::clear_dirty_log`], and `EFAULT`.
    pub fn clear_dirty_log_at(
        &self,
        slot: SlotId,
        first_page: u64,
        num_pages: u32,
        address: usize,
    ) -> Result<(), Errno> {
        let mut log = kvm_clear_dirty_log {
            slot: slot.raw(),
            num_pages,
            first_page,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: user_pointer(address) },
        };
        // SAFETY: the request reads one kvm_clear_dirty_log and, by copy_from_user, the bitmap; it writes neither.
        unsafe { ioctl::pointer(self.fd(), ioctl::KVM_CLEAR_DIRTY_LOG(), &raw mut log) }.map(drop)
    }

    /// `KVM_RESET_DIRTY_RINGS` with an argument, which the kernel ignores.
    ///
    /// # Errors
    /// As [`ringmark_abi::Vm::reset_dirty_rings`].
    pub fn reset_dirty_rings_with(&self, arg: c_ulong) -> Result<u32, Errno> {
        // SAFETY: the request takes no pointer; kvm_vm_ioctl does not look at its argument.
        unsafe { ioctl::value(self.fd(), ioctl::KVM_RESET_DIRTY_RINGS(), arg) }
    }
}

fn user_pointer(address: usize) -> *mut c_void {
    ptr::with_exposed_provenance_mut(address)
}
