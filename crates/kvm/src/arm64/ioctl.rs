//! The arm64 ioctls that `kvm-ioctls` lacks, or offers only with a buffer of fixed length.

#![allow(unsafe_code, reason = "ioctls with buffers whose length the kernel knows")]

use kvm_bindings::{KVM_CREATE_DEVICE_TEST, KVMIO, kvm_create_device, kvm_reg_list};
use ringmark_abi::Errno;
use vmm_sys_util::ioctl_iowr_nr;

use crate::{Vcpu, Vm, ioctl};

ioctl_iowr_nr!(KVM_GET_REG_LIST, KVMIO, 0xb0, kvm_reg_list);
ioctl_iowr_nr!(KVM_CREATE_DEVICE, KVMIO, 0xe0, kvm_create_device);

/// More registers than any kernel lists; a few hundred are usual.
const MOST_REGISTERS: u64 = 1 << 16;

/// `KVM_GET_REG_LIST`, however many there are.
pub(crate) fn register_ids(vcpu: &Vcpu) -> Result<Vec<u64>, Errno> {
    // The number of ids and the ids behind it, which is what kvm_reg_list is.
    let mut list = vec![0_u64];
    loop {
        let room = list.len() - 1;
        list[0] = u64::try_from(room).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the kernel writes the number, and as many ids as there are, if the number that it read has room for
        // them; that number is the buffer's.
        match unsafe { ioctl::pointer(vcpu.fd(), KVM_GET_REG_LIST(), list.as_mut_ptr()) } {
            Ok(_) => {
                let listed = usize::try_from(list[0]).map_err(|_| Errno::EINVAL)?;
                list.truncate(listed.saturating_add(1));
                list.remove(0);
                return Ok(list);
            }
            Err(Errno::E2BIG) if list[0] > list.len() as u64 - 1 && list[0] <= MOST_REGISTERS => {
                let listed = usize::try_from(list[0]).map_err(|_| Errno::EINVAL)?;
                list.resize(listed + 1, 0);
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether the kernel has a device type, by `KVM_CREATE_DEVICE` with its test flag, which makes none.
pub(crate) fn test_device(vm: &Vm, kind: u32) -> Result<(), Errno> {
    let mut device = kvm_create_device { type_: kind, fd: 0, flags: KVM_CREATE_DEVICE_TEST };
    // SAFETY: the request reads and writes one kvm_create_device.
    unsafe { ioctl::pointer(vm.fd(), KVM_CREATE_DEVICE(), &raw mut device) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        assert_eq!(KVM_GET_REG_LIST(), 0xc008_aeb0);
        assert_eq!(KVM_CREATE_DEVICE(), 0xc00c_aee0);
    }
}
