//! Devices as user space holds them.

use std::fmt;

use ringmark_abi::Errno;

use crate::Vm;

/// A device of a VM: what the descriptor is that `KVM_CREATE_DEVICE` gives.
///
/// As with the kernel, the device itself lives as long as its VM; dropping this only gives up the handle.
#[derive(Clone)]
pub struct Device {
    pub(super) vm: Vm,
    pub(super) kind: Kind,
}

/// Which device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The VGICv3.
    Vgic,
    /// An ITS, by its place in the order in which they were created.
    Its(usize),
}

impl Device {
    /// `KVM_SET_DEVICE_ATTR`: `value` is what the structure's `addr` points to; actions ignore it. A 32-bit attribute
    /// takes the low half.
    ///
    /// # Errors
    /// `ENXIO` for an unknown group or attribute (an ITS: `ENODEV` for an unknown address) and for what is not there yet;
    /// `EBUSY` while some vCPU is inside an ioctl, for everything but addresses and `INIT`; `EIO` from a dead VM; else as the
    /// attribute says.
    pub fn set_attr(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        self.vm.inner().check_alive()?;
        match self.kind {
            Kind::Vgic => self.set_vgic_attr(group, attr, value),
            Kind::Its(index) => self.set_its_attr(index, group, attr, value),
        }
    }

    /// `KVM_GET_DEVICE_ATTR`: `value` is what the structure's `addr` points to. A 32-bit attribute replaces the low half.
    /// A redistributor region is asked for by the index in it.
    ///
    /// # Errors
    /// As [`set_attr`](Self::set_attr); `ENXIO` for actions.
    pub fn get_attr(&self, group: u32, attr: u64, value: &mut u64) -> Result<(), Errno> {
        self.vm.inner().check_alive()?;
        match self.kind {
            Kind::Vgic => self.get_vgic_attr(group, attr, value),
            Kind::Its(index) => self.get_its_attr(index, group, attr, value),
        }
    }

    /// `KVM_HAS_DEVICE_ATTR`.
    ///
    /// # Errors
    /// `ENXIO` if there is no such attribute, `EINVAL` if its offset or vCPU makes no sense.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<(), Errno> {
        self.vm.inner().check_alive()?;
        match self.kind {
            Kind::Vgic => self.has_vgic_attr(group, attr),
            Kind::Its(_) => Self::has_its_attr(group, attr),
        }
    }

    /// The VM that the device belongs to.
    #[must_use]
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.kind).finish()
    }
}
