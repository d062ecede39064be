//! The x86 ioctls that `kvm-ioctls` lacks, or offers only with a buffer of fixed length.

#![allow(unsafe_code, reason = "ioctls with buffers whose length the kernel knows")]

use std::ffi::c_ulong;

use kvm_bindings::{KVM_CAP_XSAVE2, KVMIO, kvm_sregs2, kvm_xsave};
use ringmark_abi::{Errno, Vm as _};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

use crate::{Vcpu, ioctl};

ioctl_ior_nr!(KVM_GET_SREGS2, KVMIO, 0xcc, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_SREGS2, KVMIO, 0xcd, kvm_sregs2);
ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);
ioctl_ior_nr!(KVM_GET_XSAVE2, KVMIO, 0xcf, kvm_xsave);

/// `KVM_GET_SREGS2`.
pub(crate) fn sregs2(vcpu: &Vcpu) -> Result<kvm_sregs2, Errno> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: the request writes one kvm_sregs2.
    unsafe { ioctl::pointer(vcpu.fd(), KVM_GET_SREGS2(), &raw mut sregs) }?;
    Ok(sregs)
}

/// `KVM_SET_SREGS2`.
pub(crate) fn set_sregs2(vcpu: &Vcpu, sregs: &kvm_sregs2) -> Result<(), Errno> {
    // SAFETY: the request reads one kvm_sregs2.
    unsafe { ioctl::read(vcpu.fd(), KVM_SET_SREGS2(), sregs) }.map(drop)
}

/// Bytes of the XSAVE area that the kernel reads and writes for `vcpu`, and whether `KVM_GET_XSAVE2` is there.
///
/// The vCPU's own area (`guest_fpu.uabi_size`) grows only in `KVM_SET_CPUID2`, to no more than the process had
/// permission for then; permissions are never taken back, and the capability counts them all. So it is never longer
/// than this.
fn xsave_len(vcpu: &Vcpu) -> Result<(usize, bool), Errno> {
    let len = usize::try_from(vcpu.vm().check_extension(KVM_CAP_XSAVE2)?).map_err(|_| Errno::EINVAL)?;
    Ok((len.max(size_of::<kvm_xsave>()), len > 0))
}

/// `KVM_GET_XSAVE2`, or `KVM_GET_XSAVE` on a host without it.
pub(crate) fn xsave(vcpu: &Vcpu) -> Result<Vec<u8>, Errno> {
    let (len, version_2) = xsave_len(vcpu)?;
    let mut area = vec![0; len];
    let request: c_ulong = if version_2 { KVM_GET_XSAVE2() } else { KVM_GET_XSAVE() };
    // SAFETY: the area is at least as long as what either request writes (`xsave_len`; the older writes a kvm_xsave).
    unsafe { ioctl::pointer(vcpu.fd(), request, area.as_mut_ptr()) }?;
    Ok(area)
}

/// `KVM_SET_XSAVE`. A shorter area is filled up with zeros; a longer one is refused with `E2BIG` unless the rest is
/// zero.
pub(crate) fn set_xsave(vcpu: &Vcpu, area: &[u8]) -> Result<(), Errno> {
    let (len, _) = xsave_len(vcpu)?;
    let (kept, rest) = area.split_at(area.len().min(len));
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let mut buffer = kept.to_vec();
    buffer.resize(len, 0);
    // SAFETY: the buffer is at least as long as what the request reads (`xsave_len`).
    unsafe { ioctl::pointer(vcpu.fd(), KVM_SET_XSAVE(), buffer.as_mut_ptr()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        assert_eq!(KVM_GET_SREGS2(), 0x8140_aecc);
        assert_eq!(KVM_SET_SREGS2(), 0x4140_aecd);
        assert_eq!(KVM_GET_XSAVE(), 0x9000_aea4);
        assert_eq!(KVM_SET_XSAVE(), 0x5000_aea5);
        assert_eq!(KVM_GET_XSAVE2(), 0x9000_aecf);
    }
}
