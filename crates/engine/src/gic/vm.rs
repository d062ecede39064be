//! The interrupt controller's side of a VM.

use ringmark_abi::Errno;

use super::{
    Device, ItsRules, Msi, State, device::Kind, device_type, distributor::INITIAL_PROPBASER, its::Its,
};
use crate::{Arch, Vm};

/// The most vCPUs that a VGICv3 serves (`VGIC_V3_MAX_CPUS`).
const MAX_VCPUS: usize = 512;

impl Vm {
    /// `KVM_CREATE_DEVICE` for one of [`device_type`].
    ///
    /// # Errors
    /// `ENODEV` for a type that the architecture does not have. For the VGICv3: `EBUSY` while some vCPU is inside an ioctl
    /// or after one has run, `EEXIST` for a second one, `E2BIG` with over 512 vCPUs. There may be several ITSs. `EIO` from
    /// a dead VM.
    pub fn create_device(&self, kind: u32) -> Result<Device, Errno> {
        self.inner().check_alive()?;
        if self.profile().arch() != Arch::Arm64 {
            return Err(Errno::ENODEV);
        }
        let kind = match kind {
            device_type::ARM_VGIC_V3 => {
                let _held = self.hold_vcpus().ok_or(Errno::EBUSY)?;
                self.gic().state().create_vgic(self)?;
                Kind::Vgic
            }
            device_type::ARM_VGIC_ITS => Kind::Its(self.gic().state().create_its()),
            _ => return Err(Errno::ENODEV),
        };
        Ok(Device { vm: self.clone(), kind })
    }

    /// `KVM_SIGNAL_MSI`: 1 if the LPI is now pending, 0 if the guest has not mapped the event.
    ///
    /// # Errors
    /// `EINVAL` without a VGIC, without a DeviceID, or for an address that is no ITS's; `ENODEV` without an ITS; `EBUSY`
    /// while the ITS, or LPIs at the target, are disabled; `EIO` from a dead VM.
    pub fn signal_msi(&self, msi: &Msi) -> Result<u32, Errno> {
        self.inner().check_alive()?;
        self.gic().signal_msi(&self.bus(), msi)
    }

    /// The LPIs that are pending at `vcpu`, ascending: raised and not yet taken.
    #[must_use]
    pub fn pending_lpis(&self, vcpu: u32) -> Vec<u32> {
        self.gic().state().distributor.pending_lpis(vcpu).collect()
    }

    /// Takes the most urgent LPI that is pending and enabled at `vcpu`: what the vCPU does by reading `ICC_IAR1_EL1`.
    #[must_use]
    pub fn acknowledge_lpi(&self, vcpu: u32) -> Option<u32> {
        self.gic().state().distributor.acknowledge_lpi(vcpu)
    }

    /// Makes the VM's ITSs, present and future, follow the rules of another kernel than the newest.
    pub fn set_its_rules(&self, rules: ItsRules) {
        self.gic().state().rules = rules;
    }
}

impl State {
    /// `kvm_vgic_create`.
    fn create_vgic(&mut self, vm: &Vm) -> Result<(), Errno> {
        if self.distributor.created {
            return Err(Errno::EEXIST);
        }
        if vm.any_vcpu_has_run() {
            return Err(Errno::EBUSY);
        }
        if vm.vcpu_ids().len() > MAX_VCPUS {
            return Err(Errno::E2BIG);
        }
        self.distributor.created = true;
        Ok(())
    }

    /// `vgic_its_create`.
    fn create_its(&mut self) -> usize {
        self.distributor.has_its = true;
        self.distributor.propbaser = INITIAL_PROPBASER;
        self.its.push(Its::new());
        self.its.len() - 1
    }
}
