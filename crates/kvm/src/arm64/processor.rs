//! A vCPU's registers.

use kvm_bindings::{KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, kvm_mp_state, kvm_vcpu_init};
use ringmark_abi::Errno;

use super::{ioctl, register};
use crate::{Vcpu, errno};

/// Whether a vCPU starts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs when it is run.
    On,
    /// It waits, inside `KVM_RUN`, until another vCPU's `CPU_ON` or [`Vcpu::set_mp_state`].
    Off,
}

impl Vcpu {
    /// `KVM_ARM_VCPU_INIT`: makes it a processor of the host's preferred kind (`KVM_ARM_PREFERRED_TARGET`) with PSCI 0.2,
    /// at reset: EL1, interrupts masked, MMU off.
    ///
    /// Nothing else works before it. Repeated, it resets the vCPU.
    ///
    /// # Errors
    /// `ENODEV` for a host that KVM cannot run guests of its kind on, `EINVAL` for a combination it refuses.
    pub fn init(&mut self, power: Power) -> Result<(), Errno> {
        let mut init = kvm_vcpu_init::default();
        self.vm().fd().get_preferred_target(&mut init).map_err(errno::of)?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        if power == Power::Off {
            init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        self.fd().vcpu_init(&init).map_err(errno::of)?;
        self.note_affinity()
    }

    /// `KVM_GET_ONE_REG` of a register of at most 64 bits, named as in [`register`].
    ///
    /// # Errors
    /// `ENOENT` for a register the vCPU lacks, `ENOEXEC` before [`init`](Self::init), `EINVAL` (ours) for a wider
    /// register.
    pub fn register(&self, id: u64) -> Result<u64, Errno> {
        let mut value = [0; size_of::<u64>()];
        self.fd().get_one_reg(id, &mut value).map_err(errno::of)?;
        Ok(u64::from_le_bytes(value))
    }

    /// `KVM_SET_ONE_REG` of a register of at most 64 bits; a narrower one takes the low part.
    ///
    /// # Errors
    /// As [`register`](Self::register), and `EINVAL`, `EBUSY` or `EPERM` for a value that is refused.
    pub fn set_register(&mut self, id: u64, value: u64) -> Result<(), Errno> {
        self.set_register_bytes(id, &value.to_le_bytes())
    }

    /// `KVM_GET_ONE_REG` of a register of any size: as many bytes as [`register::bytes`] says.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_bytes(&self, id: u64) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; register::bytes(id)];
        self.fd().get_one_reg(id, &mut value).map_err(errno::of)?;
        Ok(value)
    }

    /// `KVM_SET_ONE_REG` of a register of any size, from its first bytes.
    ///
    /// # Errors
    /// As [`set_register`](Self::set_register); `EINVAL` (ours) for fewer bytes than the register has.
    pub fn set_register_bytes(&mut self, id: u64, value: &[u8]) -> Result<(), Errno> {
        self.fd().set_one_reg(id, value).map_err(errno::of)?;
        if id == register::MPIDR_EL1 { self.note_affinity() } else { Ok(()) }
    }

    /// `KVM_GET_REG_LIST`: the registers that make up the vCPU's state.
    ///
    /// # Errors
    /// `ENOEXEC` before [`init`](Self::init).
    pub fn register_ids(&self) -> Result<Vec<u64>, Errno> {
        ioctl::register_ids(self)
    }

    /// `KVM_GET_MP_STATE`: one of `KVM_MP_STATE_*`.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn mp_state(&self) -> Result<u32, Errno> {
        Ok(self.fd().get_mp_state().map_err(errno::of)?.mp_state)
    }

    /// `KVM_SET_MP_STATE`: `KVM_MP_STATE_RUNNABLE` or `KVM_MP_STATE_STOPPED`, among others.
    ///
    /// # Errors
    /// `EINVAL` for a state that arm64 lacks.
    pub fn set_mp_state(&mut self, mp_state: u32) -> Result<(), Errno> {
        self.fd().set_mp_state(kvm_mp_state { mp_state }).map_err(errno::of)
    }

    /// Remembers by which name the interrupt controller knows the vCPU.
    fn note_affinity(&self) -> Result<(), Errno> {
        let mpidr = self.register(register::MPIDR_EL1)?;
        self.vm().book().gic.set_affinity(self.id(), mpidr);
        Ok(())
    }
}
