//! The attributes of the VGICv3 (`kvm_arm_vgic_v3_ops`).

use ringmark_abi::Errno;

use super::{
    Device, addr,
    bits::{Part, field, low32},
    ctrl, group,
    host::Host,
    redistributor::{self, Register, vcpu_of_affinity},
};

impl Device {
    pub(super) fn set_vgic_attr(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        match group {
            group::ADDR => {
                let (vcpus, ipa_bits) = (self.vm.bus().vcpus().len(), self.vm.ipa_bits());
                let frames = &mut self.vm.gic().state().distributor.frames;
                match attr {
                    addr::V3_DIST => frames.set_distributor(value, ipa_bits),
                    addr::V3_REDIST => frames.set_single_region(value, vcpus, ipa_bits),
                    addr::V3_REDIST_REGION => frames.set_region(value, vcpus, ipa_bits),
                    _ => Err(Errno::ENXIO),
                }
            }
            group::CTRL => self.control_vgic(attr),
            group::REDIST_REGS => {
                let vcpu = self.vcpu_named_by(attr)?;
                let _held = self.vm.hold_vcpus().ok_or(Errno::EBUSY)?;
                let distributor = &mut self.vm.gic().state().distributor;
                if !distributor.initialized {
                    return Err(Errno::EBUSY);
                }
                let (register, part) = redistributor_register(attr)?;
                distributor.write_redistributor(&self.vm.bus(), vcpu, register, part, field(value, 31, 0));
                Ok(())
            }
            _ => Err(Errno::ENXIO),
        }
    }

    pub(super) fn get_vgic_attr(&self, group: u32, attr: u64, value: &mut u64) -> Result<(), Errno> {
        match group {
            group::ADDR => {
                let frames = &self.vm.gic().state().distributor.frames;
                *value = match attr {
                    addr::V3_DIST => frames.distributor().unwrap_or(addr::UNDEFINED),
                    addr::V3_REDIST => frames.first_region().unwrap_or(addr::UNDEFINED),
                    addr::V3_REDIST_REGION => frames.region(field(*value, 11, 0)).ok_or(Errno::ENOENT)?,
                    _ => return Err(Errno::ENXIO),
                };
                Ok(())
            }
            group::REDIST_REGS => {
                let vcpu = self.vcpu_named_by(attr)?;
                let _held = self.vm.hold_vcpus().ok_or(Errno::EBUSY)?;
                let distributor = &self.vm.gic().state().distributor;
                if !distributor.initialized {
                    return Err(Errno::EBUSY);
                }
                let (register, part) = redistributor_register(attr)?;
                let last = self.vm.bus().vcpus().last() == Some(&vcpu);
                *value = Part::Low.write(*value, distributor.read_redistributor(vcpu, last, register, part));
                Ok(())
            }
            _ => Err(Errno::ENXIO),
        }
    }

    pub(super) fn has_vgic_attr(&self, group: u32, attr: u64) -> Result<(), Errno> {
        let known = match group {
            group::ADDR => matches!(attr, addr::V3_DIST | addr::V3_REDIST | addr::V3_REDIST_REGION),
            group::CTRL => matches!(attr, ctrl::INIT | ctrl::SAVE_PENDING_TABLES),
            group::REDIST_REGS => {
                self.vcpu_named_by(attr)?;
                redistributor_register(attr).is_ok()
            }
            _ => false,
        };
        known.then_some(()).ok_or(Errno::ENXIO)
    }

    fn control_vgic(&self, attr: u64) -> Result<(), Errno> {
        match attr {
            ctrl::INIT => {
                self.vm.gic().state().distributor.initialized = true;
                Ok(())
            }
            ctrl::SAVE_PENDING_TABLES => {
                let _held = self.vm.hold_vcpus().ok_or(Errno::EBUSY)?;
                self.vm.gic().state().distributor.save_pending_tables(&self.vm.bus())
            }
            _ => Err(Errno::ENXIO),
        }
    }

    /// The vCPU whose affinity is in the upper half of `attr` (`vgic_v3_parse_attr`).
    fn vcpu_named_by(&self, attr: u64) -> Result<u32, Errno> {
        let vcpu = vcpu_of_affinity(low32(field(attr, 63, 32))).ok_or(Errno::EINVAL)?;
        if self.vm.bus().has_vcpu(vcpu) { Ok(vcpu) } else { Err(Errno::EINVAL) }
    }
}

/// The register, or the half of one, whose offset is in the lower half of `attr`.
fn redistributor_register(attr: u64) -> Result<(Register, Part), Errno> {
    let offset = field(attr, 31, 0);
    let (register, wide) = redistributor::find(offset).ok_or(Errno::ENXIO)?;
    // A register of 32 bits may lie in either half of its 8 bytes.
    let part = Part::of(if wide { offset } else { offset & 3 }, 4).ok_or(Errno::ENXIO)?;
    Ok((register, part))
}
