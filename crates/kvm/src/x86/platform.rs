//! The devices of a PC that KVM holds, and the host's lists of what it supports.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use ringmark_abi::Errno;

use crate::{System, Vm, errno};

impl System {
    /// `KVM_GET_SUPPORTED_CPUID`: what the host's KVM can give a guest.
    ///
    /// # Errors
    /// `ENOMEM`; `E2BIG` for more leaves than the kernel is known to have.
    pub fn supported_cpuid(&self) -> Result<CpuId, Errno> {
        self.kvm().get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(errno::of)
    }

    /// `KVM_GET_MSR_INDEX_LIST`: the MSRs that make up a guest's state.
    ///
    /// # Errors
    /// `E2BIG` for more MSRs than the kernel is known to have.
    pub fn msr_indices(&self) -> Result<Vec<u32>, Errno> {
        Ok(self.kvm().get_msr_index_list().map_err(errno::of)?.as_slice().to_vec())
    }

    /// `KVM_GET_MSR_FEATURE_INDEX_LIST`: the MSRs that say what the host's KVM can do; no guest's state.
    ///
    /// # Errors
    /// `E2BIG` for more MSRs than the kernel is known to have.
    pub fn feature_msr_indices(&self) -> Result<Vec<u32>, Errno> {
        Ok(self.kvm().get_msr_feature_index_list().map_err(errno::of)?.as_slice().to_vec())
    }
}

impl Vm {
    /// `KVM_SET_TSS_ADDR`: three pages below 4 GiB, outside every memslot, that Intel's real mode needs. Before the
    /// first vCPU.
    ///
    /// # Errors
    /// `EINVAL` unless they lie below 4 GiB.
    pub fn set_tss_address(&self, address: u32) -> Result<(), Errno> {
        let address = usize::try_from(address).map_err(|_| Errno::EINVAL)?;
        self.fd().set_tss_address(address).map_err(errno::of)
    }

    /// `KVM_SET_IDENTITY_MAP_ADDR`: one page below 4 GiB, outside every memslot, that Intel's real mode needs.
    /// Before the first vCPU.
    ///
    /// # Errors
    /// `EINVAL` once there is a vCPU.
    pub fn set_identity_map_address(&self, address: u64) -> Result<(), Errno> {
        self.fd().set_identity_map_address(address).map_err(errno::of)
    }

    /// `KVM_CREATE_IRQCHIP`: two PICs, an I/O APIC and every vCPU's local APIC in the kernel. Before the first vCPU.
    ///
    /// # Errors
    /// `EEXIST` the second time, `EINVAL` once there is a vCPU.
    pub fn create_irqchip(&self) -> Result<(), Errno> {
        self.fd().create_irq_chip().map_err(errno::of)
    }

    /// `KVM_CREATE_PIT2`: the interval timer in the kernel, port 0x61 included.
    ///
    /// # Errors
    /// `EEXIST` the second time, `ENOENT` without an interrupt controller in the kernel.
    pub fn create_pit2(&self) -> Result<(), Errno> {
        let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.fd().create_pit2(config).map_err(errno::of)
    }
}
