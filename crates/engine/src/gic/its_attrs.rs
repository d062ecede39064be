//! The attributes of an ITS (`kvm_arm_vgic_its_ops`).

use ringmark_abi::Errno;

use super::{
    Device, addr,
    bits::Part,
    ctrl, frames, group,
    its::{self, find_register_for_user},
};

impl Device {
    pub(super) fn set_its_attr(&self, index: usize, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        match group {
            group::ADDR if attr == addr::ITS => {
                let its = &mut self.vm.gic().state().its[index];
                frames::check_place(its.base, value, its::LEN, self.vm.ipa_bits())?;
                its.base = Some(value);
                Ok(())
            }
            group::ADDR => Err(Errno::ENODEV),
            group::CTRL => self.control_its(index, attr),
            group::ITS_REGS => {
                let register = find_register_for_user(attr);
                // KVM asks for the alignment, then for the vCPUs, then whether there is such a register.
                if register == Err(Errno::EINVAL) {
                    return Err(Errno::EINVAL);
                }
                let _held = self.vm.hold_vcpus().ok_or(Errno::EBUSY)?;
                let state = &mut *self.vm.gic().state();
                let its = &mut state.its[index];
                its.base.ok_or(Errno::ENXIO)?;
                its.write_as_user(&mut state.distributor, &self.vm.bus(), state.rules, (register?, value))
            }
            _ => Err(Errno::ENXIO),
        }
    }

    pub(super) fn get_its_attr(
        &self,
        index: usize,
        group: u32,
        attr: u64,
        value: &mut u64,
    ) -> Result<(), Errno> {
        match group {
            group::ADDR if attr == addr::ITS => {
                *value = self.vm.gic().state().its[index].base.unwrap_or(addr::UNDEFINED);
                Ok(())
            }
            group::ADDR => Err(Errno::ENODEV),
            group::ITS_REGS => {
                let register = find_register_for_user(attr);
                if register == Err(Errno::EINVAL) {
                    return Err(Errno::EINVAL);
                }
                let _held = self.vm.hold_vcpus().ok_or(Errno::EBUSY)?;
                let state = self.vm.gic().state();
                let its = &state.its[index];
                its.base.ok_or(Errno::ENXIO)?;
                *value = its.read(register?, Part::Whole);
                Ok(())
            }
            _ => Err(Errno::ENXIO),
        }
    }

    pub(super) fn has_its_attr(group: u32, attr: u64) -> Result<(), Errno> {
        let known = match group {
            group::ADDR => attr == addr::ITS,
            group::CTRL => {
                matches!(
                    attr,
                    ctrl::INIT | ctrl::ITS_SAVE_TABLES | ctrl::ITS_RESTORE_TABLES | ctrl::ITS_RESET
                )
            }
            group::ITS_REGS => find_register_for_user(attr).map(|_| true)?,
            _ => false,
        };
        known.then_some(()).ok_or(Errno::ENXIO)
    }

    /// `vgic_its_ctrl`.
    fn control_its(&self, index: usize, attr: u64) -> Result<(), Errno> {
        if attr == ctrl::INIT {
            return Ok(());
        }
        let _held = self.vm.hold_vcpus().ok_or(Errno::EBUSY)?;
        let state = &mut *self.vm.gic().state();
        let its = &mut state.its[index];
        match attr {
            ctrl::ITS_SAVE_TABLES => its.save_tables(&self.vm.bus(), state.rules),
            ctrl::ITS_RESTORE_TABLES => its.restore_tables(&mut state.distributor, &self.vm.bus()),
            ctrl::ITS_RESET => {
                its.reset(&mut state.distributor);
                Ok(())
            }
            _ if state.rules.unknown_ctrl_refused => Err(Errno::ENXIO),
            _ => Ok(()),
        }
    }
}
