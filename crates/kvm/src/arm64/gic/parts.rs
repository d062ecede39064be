//! What a VM's interrupt controller consists of.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvm_ioctls::DeviceFd;

use super::{Device, device_type};
use crate::Vm;

/// The devices in the order in which they were created, and the vCPUs by the names that they have to them.
#[derive(Debug, Default)]
pub(crate) struct GicParts {
    devices: Vec<(u32, Arc<DeviceFd>)>,
    affinities: BTreeMap<u32, u64>,
}

impl GicParts {
    /// A device more.
    pub(super) fn add(&mut self, kind: u32, fd: Arc<DeviceFd>) {
        self.devices.push((kind, fd));
    }

    /// A vCPU, or another `MPIDR_EL1` for one.
    pub(in crate::arm64) fn set_affinity(&mut self, vcpu: u32, mpidr: u64) {
        self.affinities.insert(vcpu, mpidr);
    }
}

impl Vm {
    /// The VGICv3, if there is one.
    pub(in crate::arm64) fn vgic(&self) -> Option<Device> {
        self.devices_of(device_type::ARM_VGIC_V3).pop()
    }

    /// The ITSs, in the order in which they were created.
    pub(in crate::arm64) fn translators(&self) -> Vec<Device> {
        self.devices_of(device_type::ARM_VGIC_ITS)
    }

    /// The initialised vCPUs and, for each, the upper half of the attributes that concern it
    /// (`KVM_DEV_ARM_VGIC_V3_MPIDR_MASK`).
    pub(in crate::arm64) fn affinities(&self) -> Vec<(u32, u64)> {
        self.book().gic.affinities.iter().map(|(&vcpu, &mpidr)| (vcpu, attribute_half(mpidr))).collect()
    }

    fn devices_of(&self, kind: u32) -> Vec<Device> {
        let book = self.book();
        let of_kind = book.gic.devices.iter().filter(|(other, _)| *other == kind);
        of_kind.map(|(_, fd)| Device { vm: self.clone(), fd: Arc::clone(fd) }).collect()
    }
}

/// Affinity levels 3 to 0, a byte each, in the upper half.
fn attribute_half(mpidr: u64) -> u64 {
    (mpidr >> 32 & 0xff) << 56 | (mpidr & 0xff_ffff) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_is_packed_as_the_kernel_unpacks_it() {
        assert_eq!(attribute_half(0x8000_0001), 0x0000_0001_0000_0000);
        assert_eq!(attribute_half(0x12_80ab_cdef), 0x12ab_cdef_0000_0000);
    }
}
