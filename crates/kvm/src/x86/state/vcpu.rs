//! The state of a vCPU.

use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    CpuId, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_sregs2,
    kvm_vcpu_events, kvm_xcrs,
};
use ringmark_abi::Errno;
use serde::{Deserialize, Serialize};

use super::{Msr, Part, XsaveArea, msr};
use crate::state::optional;
use crate::x86::ioctl;
use crate::{Absent, Raw, StateError, Vcpu, errno};

/// The system registers, by whichever ioctl the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sregs {
    /// `KVM_GET_SREGS2`: with the page-directory pointers of 32-bit paging.
    V2(Raw<kvm_sregs2>),
    /// `KVM_GET_SREGS`.
    V1(Raw<kvm_sregs>),
}

/// All that KVM knows of a vCPU.
///
/// A part is `None` where the host does not have it, and then [`absent`](Self::absent) says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// What `CPUID` tells the guest.
    pub cpuid: Vec<Raw<kvm_cpuid_entry2>>,
    /// Frequency of the guest's time-stamp counter in kHz.
    pub tsc_khz: Option<u32>,
    /// Running, halted, waiting for its start.
    pub mp_state: Option<Raw<kvm_mp_state>>,
    /// The general registers.
    pub regs: Raw<kvm_regs>,
    /// The system registers.
    pub sregs: Sregs,
    /// Floating point, vectors and all else that `XSAVE` saves.
    pub xsave: Option<XsaveArea>,
    /// The extended control registers.
    pub xcrs: Option<Raw<kvm_xcrs>>,
    /// The debug registers.
    pub debug_regs: Option<Raw<kvm_debugregs>>,
    /// The local APIC; absent without an interrupt controller in the kernel.
    pub lapic: Option<Raw<kvm_lapic_state>>,
    /// The model-specific registers.
    pub msrs: Vec<Msr>,
    /// Exceptions and interrupts on their way.
    pub events: Option<Raw<kvm_vcpu_events>>,
    /// A guest's guest.
    pub nested: Option<Raw<KvmNestedStateBuffer>>,
    /// What the host could not give.
    pub absent: Vec<Absent>,
}

impl Vcpu {
    /// Saves the vCPU's state. What its last exit left pending must be finished first, by
    /// [`complete_pending`](Self::complete_pending), and every other vCPU must be out of the guest.
    ///
    /// Reading state may itself write guest memory and log pages (`KVM_GET_MP_STATE` takes pending start signals):
    /// the last harvest comes after it.
    ///
    /// # Errors
    /// [`StateError::Save`] for a part that every host has, and for any part where the kernel says that something is
    /// wrong rather than that there is no such thing.
    pub fn state(&self) -> Result<VcpuState, StateError> {
        let mut absent = Vec::new();
        let required = |part| move |errno| StateError::Save { part, errno };
        // First, since it accepts pending INIT and SIPI and so changes what follows (kvm_apic_accept_events).
        let mp_state = optional(Part::MpState, self.fd().get_mp_state().map_err(errno::of), &mut absent)?;
        let cpuid = self.cpuid().map_err(required(Part::Cpuid))?;
        let regs = self.regs().map_err(required(Part::Regs))?;
        let sregs = match optional(Part::Sregs2, ioctl::sregs2(self), &mut absent)? {
            Some(sregs) => Sregs::V2(Raw(sregs)),
            None => Sregs::V1(Raw(self.sregs().map_err(required(Part::Sregs))?)),
        };
        let xsave = optional(Part::Xsave, ioctl::xsave(self), &mut absent)?;
        let xcrs = optional(Part::Xcrs, self.fd().get_xcrs().map_err(errno::of), &mut absent)?;
        let debug_regs =
            optional(Part::DebugRegs, self.fd().get_debug_regs().map_err(errno::of), &mut absent)?;
        let lapic = optional(Part::Lapic, self.fd().get_lapic().map_err(errno::of), &mut absent)?;
        let tsc_khz = optional(Part::TscKhz, self.fd().get_tsc_khz().map_err(errno::of), &mut absent)?;
        let nested = optional(Part::NestedState, self.nested_state(), &mut absent)?;
        let msrs = msr::save(self, &mut absent)?;
        // Last, since reading other parts may turn what is pending into events.
        let events = optional(Part::VcpuEvents, self.fd().get_vcpu_events().map_err(errno::of), &mut absent)?;
        Ok(VcpuState {
            cpuid: cpuid.as_slice().iter().copied().map(Raw).collect(),
            tsc_khz,
            mp_state: mp_state.map(Raw),
            regs: Raw(regs),
            sregs,
            xsave: xsave.map(XsaveArea),
            xcrs: xcrs.map(Raw),
            debug_regs: debug_regs.map(Raw),
            lapic: lapic.map(Raw),
            msrs,
            events: events.map(Raw),
            nested: nested.map(Raw),
            absent,
        })
    }

    /// Restores a saved state into a vCPU that has not run, in a VM whose memory and [`VmState`](super::VmState) are
    /// restored.
    ///
    /// It writes guest memory where the guest had given the hypervisor an address: the wall-clock MSRs are written
    /// at once (three ring entries each), the clock and steal-time pages on the next run. Those pages count as dirty
    /// from here on.
    ///
    /// # Errors
    /// [`StateError::Restore`] or [`StateError::Msr`] at the first part that was saved and cannot be set; the vCPU
    /// is then of no use.
    pub fn set_state(&mut self, state: &VcpuState) -> Result<(), StateError> {
        let part = |part| move |errno| StateError::Restore { part, errno };
        let entries: Vec<_> = state.cpuid.iter().map(|entry| entry.0).collect();
        // CPUID decides which registers exist.
        CpuId::from_entries(&entries)
            .map_err(|_| Errno::E2BIG)
            .and_then(|cpuid| self.set_cpuid(&cpuid))
            .map_err(part(Part::Cpuid))?;
        if let Some(khz) = state.tsc_khz {
            // A host without a scalable counter refuses any change, the one to its own frequency included.
            if self.fd().get_tsc_khz().ok() != Some(khz) {
                self.fd().set_tsc_khz(khz).map_err(errno::of).map_err(part(Part::TscKhz))?;
            }
        }
        // Paging and EFER before MSRs, the APIC base before the APIC, all of them before nested state.
        match &state.sregs {
            Sregs::V2(sregs) => ioctl::set_sregs2(self, sregs).map_err(part(Part::Sregs2))?,
            Sregs::V1(sregs) => self.set_sregs(sregs).map_err(part(Part::Sregs))?,
        }
        if let Some(nested) = &state.nested {
            msr::restore_feature_control(self, &state.msrs)?;
            self.fd().set_nested_state(nested).map_err(errno::of).map_err(part(Part::NestedState))?;
        }
        self.set_regs(&state.regs).map_err(part(Part::Regs))?;
        if let Some(area) = &state.xsave {
            ioctl::set_xsave(self, &area.0).map_err(part(Part::Xsave))?;
        }
        if let Some(xcrs) = &state.xcrs {
            self.fd().set_xcrs(xcrs).map_err(errno::of).map_err(part(Part::Xcrs))?;
        }
        if let Some(regs) = &state.debug_regs {
            self.fd().set_debug_regs(regs).map_err(errno::of).map_err(part(Part::DebugRegs))?;
        }
        // The timer's mode before its deadline, which is among the MSRs.
        if let Some(lapic) = &state.lapic {
            self.fd().set_lapic(lapic).map_err(errno::of).map_err(part(Part::Lapic))?;
        }
        msr::restore(self, &state.msrs)?;
        // After everything that could queue or drop an event.
        if let Some(events) = &state.events {
            self.fd().set_vcpu_events(events).map_err(errno::of).map_err(part(Part::VcpuEvents))?;
        }
        // After the registers, since setting those of a reset processor makes it runnable.
        if let Some(mp_state) = &state.mp_state {
            self.fd().set_mp_state(mp_state.0).map_err(errno::of).map_err(part(Part::MpState))?;
        }
        Ok(())
    }

    fn nested_state(&self) -> Result<KvmNestedStateBuffer, Errno> {
        let mut buffer = KvmNestedStateBuffer::empty();
        self.fd().nested_state(&mut buffer).map_err(errno::of)?;
        Ok(buffer)
    }
}
