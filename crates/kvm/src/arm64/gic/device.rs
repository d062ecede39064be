//! Devices that live in the kernel.

#![allow(unsafe_code, reason = "attributes are read to an address")]

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use kvm_bindings::{kvm_create_device, kvm_device_attr};
use kvm_ioctls::DeviceFd;
use ringmark_abi::Errno;

use super::super::ioctl;
use super::device_type;
use crate::{Vm, errno};

/// A device of a VM, as `KVM_CREATE_DEVICE` gives it: the VGICv3 or an ITS.
///
/// The device itself lives as long as its VM; dropping this only gives up the handle.
#[derive(Clone)]
pub struct Device {
    pub(super) vm: Vm,
    pub(super) fd: Arc<DeviceFd>,
}

impl Vm {
    /// `KVM_CREATE_DEVICE` for one of [`device_type`].
    ///
    /// # Errors
    /// `ENODEV` for a type that the host or this crate does not have. For the VGICv3: `EBUSY` while some vCPU is inside an
    /// ioctl or after one has run, `EEXIST` for a second one. There may be several ITSs.
    pub fn create_device(&self, kind: u32) -> Result<Device, Errno> {
        if !matches!(kind, device_type::ARM_VGIC_V3 | device_type::ARM_VGIC_ITS) {
            // The kernel has the word on what is wrong; a device whose attributes are of any length is none of ours.
            return ioctl::test_device(self, kind).and(Err(Errno::ENODEV));
        }
        // Held across the ioctl, so that the devices are remembered in the kernel's order.
        let mut book = self.book();
        let mut device = kvm_create_device { type_: kind, fd: 0, flags: 0 };
        let fd = Arc::new(self.fd().create_device(&mut device).map_err(errno::of)?);
        book.gic.add(kind, Arc::clone(&fd));
        Ok(Device { vm: self.clone(), fd })
    }
}

impl Device {
    /// `KVM_SET_DEVICE_ATTR`: `value` is what the structure's `addr` points to; actions ignore it. A 32-bit attribute
    /// takes the low half.
    ///
    /// # Errors
    /// `ENXIO` for an unknown group or attribute (an ITS: `ENODEV` for an unknown address) and for what is not there yet;
    /// `EBUSY` while some vCPU is inside an ioctl, for everything but addresses and `INIT`; else as the attribute says.
    pub fn set_attr(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        let request = kvm_device_attr { group, attr, addr: address(&raw const value), flags: 0 };
        self.fd.set_device_attr(&request).map_err(errno::of)
    }

    /// `KVM_GET_DEVICE_ATTR`: `value` is what the structure's `addr` points to. A 32-bit attribute replaces the low half.
    /// A redistributor region is asked for by the index in it.
    ///
    /// # Errors
    /// As [`set_attr`](Self::set_attr); `ENXIO` for actions.
    pub fn get_attr(&self, group: u32, attr: u64, value: &mut u64) -> Result<(), Errno> {
        let mut request = kvm_device_attr { group, attr, addr: address(&raw mut *value), flags: 0 };
        // SAFETY: attributes of the two kinds of device there are have four or eight bytes, and `value` has eight.
        unsafe { self.fd.get_device_attr(&mut request) }.map_err(errno::of)
    }

    /// `KVM_HAS_DEVICE_ATTR`.
    ///
    /// # Errors
    /// `ENXIO` if there is no such attribute, `EINVAL` if its offset or vCPU makes no sense.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<(), Errno> {
        let request = kvm_device_attr { group, attr, addr: 0, flags: 0 };
        self.fd.has_device_attr(&request).map_err(errno::of)
    }

    /// The VM that the device belongs to.
    #[must_use]
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("fd", &self.as_raw_fd()).finish_non_exhaustive()
    }
}

fn address(value: *const u64) -> u64 {
    value.expose_provenance() as u64
}
