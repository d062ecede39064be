//! The parts of a state.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a vCPU's or VM's state, named by the ioctl it goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// `KVM_GET_CPUID2`.
    Cpuid,
    /// `KVM_GET_TSC_KHZ`.
    TscKhz,
    /// `KVM_GET_MP_STATE`.
    MpState,
    /// `KVM_GET_REGS`.
    Regs,
    /// `KVM_GET_SREGS`.
    Sregs,
    /// `KVM_GET_SREGS2`.
    Sregs2,
    /// `KVM_GET_XSAVE2`, or `KVM_GET_XSAVE`.
    Xsave,
    /// `KVM_GET_XCRS`.
    Xcrs,
    /// `KVM_GET_DEBUGREGS`.
    DebugRegs,
    /// `KVM_GET_LAPIC`.
    Lapic,
    /// `KVM_GET_MSR_INDEX_LIST` and `KVM_GET_MSRS` as a whole.
    Msrs,
    /// One MSR, by its index.
    Msr(u32),
    /// `KVM_GET_VCPU_EVENTS`.
    VcpuEvents,
    /// `KVM_GET_NESTED_STATE`.
    NestedState,
    /// `KVM_GET_IRQCHIP`: 0 and 1 are the PICs, 2 is the I/O APIC.
    Irqchip(u32),
    /// `KVM_GET_PIT2`.
    Pit2,
    /// `KVM_GET_CLOCK`.
    Clock,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpuid => f.write_str("CPUID"),
            Self::TscKhz => f.write_str("TSC_KHZ"),
            Self::MpState => f.write_str("MP_STATE"),
            Self::Regs => f.write_str("REGS"),
            Self::Sregs => f.write_str("SREGS"),
            Self::Sregs2 => f.write_str("SREGS2"),
            Self::Xsave => f.write_str("XSAVE"),
            Self::Xcrs => f.write_str("XCRS"),
            Self::DebugRegs => f.write_str("DEBUGREGS"),
            Self::Lapic => f.write_str("LAPIC"),
            Self::Msrs => f.write_str("MSRS"),
            Self::Msr(index) => write!(f, "MSR {index:#x}"),
            Self::VcpuEvents => f.write_str("VCPU_EVENTS"),
            Self::NestedState => f.write_str("NESTED_STATE"),
            Self::Irqchip(chip) => write!(f, "IRQCHIP {chip}"),
            Self::Pit2 => f.write_str("PIT2"),
            Self::Clock => f.write_str("CLOCK"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Absent, StateError, state::optional};
    use ringmark_abi::Errno;

    #[test]
    fn an_absent_part_is_noted_and_a_failure_is_not_taken_for_one() {
        let mut absent = Vec::new();
        assert_eq!(optional(Part::Xcrs, Ok(7), &mut absent), Ok(Some(7)));
        assert_eq!(optional::<u8>(Part::NestedState, Err(Errno::EINVAL), &mut absent), Ok(None));
        assert_eq!(absent, [Absent { what: Part::NestedState, errno: Errno::EINVAL }]);
        let failed = optional::<u8>(Part::Lapic, Err(Errno::EIO), &mut absent);
        assert_eq!(failed, Err(StateError::Save { part: Part::Lapic, errno: Errno::EIO }));
        assert_eq!(absent.len(), 1);
    }

    #[test]
    fn absent_parts_survive_being_written_down() {
        let absent = [
            Absent { what: Part::Msr(0x4000_0000), errno: Errno::EINVAL },
            Absent { what: Part::Clock, errno: Errno::EIO },
        ];
        let text = serde_json::to_string(&absent).unwrap();
        assert_eq!(text, r#"[{"what":{"msr":1073741824},"errno":22},{"what":"clock","errno":5}]"#);
        assert_eq!(serde_json::from_str::<Vec<Absent>>(&text).unwrap(), absent);
    }
}
