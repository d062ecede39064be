//! A vCPU's registers.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs};
use ringmark_abi::Errno;

use crate::{Vcpu, errno};

impl Vcpu {
    /// `KVM_GET_REGS`.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn regs(&self) -> Result<kvm_regs, Errno> {
        self.fd().get_regs().map_err(errno::of)
    }

    /// `KVM_SET_REGS`.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn set_regs(&mut self, regs: &kvm_regs) -> Result<(), Errno> {
        self.fd().set_regs(regs).map_err(errno::of)
    }

    /// `KVM_GET_SREGS`.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn sregs(&self) -> Result<kvm_sregs, Errno> {
        self.fd().get_sregs().map_err(errno::of)
    }

    /// `KVM_SET_SREGS`.
    ///
    /// # Errors
    /// `EINVAL` for registers that do not go together (`kvm_is_valid_sregs`).
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<(), Errno> {
        self.fd().set_sregs(sregs).map_err(errno::of)
    }

    /// `KVM_SET_MP_STATE`, to one of `KVM_MP_STATE_*`.
    ///
    /// With an interrupt controller in the kernel, a vCPU other than the boot processor (id 0) waits for an INIT from
    /// another one, inside `KVM_RUN`, until it is set to `KVM_MP_STATE_RUNNABLE`.
    ///
    /// # Errors
    /// `EINVAL` for a state that x86 lacks, and for all but the runnable one without an interrupt controller in the
    /// kernel.
    pub fn set_mp_state(&mut self, mp_state: u32) -> Result<(), Errno> {
        self.fd().set_mp_state(kvm_mp_state { mp_state }).map_err(errno::of)
    }

    /// `KVM_GET_CPUID2`: what the vCPU was given.
    ///
    /// # Errors
    /// `E2BIG` for more leaves than the kernel is known to have.
    pub fn cpuid(&self) -> Result<CpuId, Errno> {
        self.fd().get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(errno::of)
    }

    /// `KVM_SET_CPUID2`. Before the vCPU first runs.
    ///
    /// # Errors
    /// `EINVAL` for a change after the vCPU ran.
    pub fn set_cpuid(&mut self, cpuid: &CpuId) -> Result<(), Errno> {
        self.fd().set_cpuid2(cpuid).map_err(errno::of)
    }

    /// `KVM_GET_MSRS` of one MSR.
    ///
    /// # Errors
    /// `EINVAL` (ours; the kernel only says that it read none) for an MSR that cannot be read.
    pub fn msr(&self, index: u32) -> Result<u64, Errno> {
        let mut msrs = one_msr(kvm_msr_entry { index, ..Default::default() })?;
        match (self.fd().get_msrs(&mut msrs).map_err(errno::of)?, msrs.as_slice()) {
            (1, [entry]) => Ok(entry.data),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `KVM_SET_MSRS` of one MSR.
    ///
    /// It may write guest memory and log the page at once, without a [`run`](Self::run): three ring entries for the
    /// wall clock (`MSR_KVM_WALL_CLOCK_NEW`), and with no test for a full ring.
    ///
    /// # Errors
    /// `EINVAL` (ours; the kernel only says that it wrote none) for an MSR or value that is refused.
    pub fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Errno> {
        let msrs = one_msr(kvm_msr_entry { index, data: value, ..Default::default() })?;
        match self.fd().set_msrs(&msrs).map_err(errno::of)? {
            1 => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn one_msr(entry: kvm_msr_entry) -> Result<Msrs, Errno> {
    Msrs::from_entries(&[entry]).map_err(|_| Errno::EINVAL)
}
