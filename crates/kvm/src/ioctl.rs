//! The ioctls that `kvm-ioctls` lacks.
//!
//! Request numbers are built from the kernel's definitions (`include/uapi/linux/kvm.h`), structures are those of
//! `kvm-bindings`.

#![allow(unsafe_code, reason = "ioctls: the kernel reads and writes what the argument points to")]

use std::ffi::{c_int, c_ulong};
use std::os::fd::AsRawFd;

use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log, kvm_enable_cap, kvm_userspace_memory_region};
use ringmark_abi::Errno;
use vmm_sys_util::{ioctl, ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

use crate::errno;

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_iow_nr!(KVM_SET_USER_MEMORY_REGION, KVMIO, 0x46, kvm_userspace_memory_region);
ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_iow_nr!(KVM_ENABLE_CAP, KVMIO, 0xa3, kvm_enable_cap);
ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

fn result(ret: c_int) -> Result<u32, Errno> {
    u32::try_from(ret).map_err(|_| errno::last())
}

/// An ioctl whose argument is a number, or nothing.
///
/// # Safety
/// `request` takes no pointer.
pub(crate) unsafe fn value(fd: &impl AsRawFd, request: c_ulong, arg: c_ulong) -> Result<u32, Errno> {
    // SAFETY: the caller promises that the kernel takes `arg` by value, so it touches no memory of ours.
    result(unsafe { ioctl::ioctl_with_val(fd, request, arg) })
}

/// An ioctl that reads its argument.
///
/// # Safety
/// `request` reads a `T` and writes none, and every address inside `arg` that the kernel writes through may be
/// written.
pub(crate) unsafe fn read<T>(fd: &impl AsRawFd, request: c_ulong, arg: &T) -> Result<u32, Errno> {
    // SAFETY: `arg` is a live `T`, which is what the caller promises `request` reads.
    result(unsafe { ioctl::ioctl_with_ref(fd, request, arg) })
}

/// An ioctl that writes its argument, from a pointer to a buffer that may be longer than the request says.
///
/// # Safety
/// Every byte the kernel reads or writes for `request` lies in memory at `arg` that may be written.
pub(crate) unsafe fn pointer<T>(fd: &impl AsRawFd, request: c_ulong, arg: *mut T) -> Result<u32, Errno> {
    // SAFETY: the caller promises that the memory at `arg` is as long as the kernel takes it to be.
    result(unsafe { ioctl::ioctl_with_mut_ptr(fd, request, arg) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        assert_eq!(KVM_RUN(), 0xae80);
        assert_eq!(KVM_SET_USER_MEMORY_REGION(), 0x4020_ae46);
        assert_eq!(KVM_GET_DIRTY_LOG(), 0x4010_ae42);
        assert_eq!(KVM_CLEAR_DIRTY_LOG(), 0xc018_aec0);
        assert_eq!(KVM_ENABLE_CAP(), 0x4068_aea3);
        assert_eq!(KVM_RESET_DIRTY_RINGS(), 0xaec7);
    }
}
