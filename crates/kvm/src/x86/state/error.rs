//! The parts of a state, and what can be wrong with one.

use std::fmt;

use ringmark_abi::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// A part that the host does not have, and the number it said so with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// The part.
    pub what: Part,
    /// What the kernel gave; `EINVAL` stands for an MSR, of which it only says that it was not read.
    #[serde(serialize_with = "errno_to_number", deserialize_with = "errno_from_number")]
    pub errno: Errno,
}

fn errno_to_number<S: Serializer>(errno: &Errno, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i32(errno.raw())
}

fn errno_from_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Errno, D::Error> {
    i32::deserialize(deserializer).map(Errno::from_raw)
}

/// Why a state could not be saved or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A part that every host has, or that this one has, could not be read.
    #[error("{part} cannot be saved: {errno}")]
    Save {
        /// The part.
        part: Part,
        /// What the kernel gave.
        errno: Errno,
    },
    /// A part that was saved could not be set: this host cannot go on with the state.
    #[error(
        "{part} cannot be restored on this host: {errno}; restore on a host like the one it was saved on"
    )]
    Restore {
        /// The part.
        part: Part,
        /// What the kernel gave.
        errno: Errno,
    },
    /// An MSR would not take its value and holds another.
    #[error(
        "MSR {index:#x} cannot be restored on this host: it refuses {value:#x}; restore on a host like the one it \
         was saved on"
    )]
    Msr {
        /// The MSR.
        index: u32,
        /// The value it refused.
        value: u64,
    },
}

/// Tells a part that the host lacks from one that could not be read.
pub(super) fn optional<T>(
    part: Part,
    result: Result<T, Errno>,
    absent: &mut Vec<Absent>,
) -> Result<Option<T>, StateError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(errno) if means_absent(errno) => {
            absent.push(Absent { what: part, errno });
            Ok(None)
        }
        Err(errno) => Err(StateError::Save { part, errno }),
    }
}

fn means_absent(errno: Errno) -> bool {
    matches!(errno, Errno::EINVAL | Errno::ENOTTY | Errno::ENXIO | Errno::ENODEV)
        || matches!(errno.raw(), libc::ENOSYS | libc::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

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
