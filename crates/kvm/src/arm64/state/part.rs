//! The parts of a state.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a vCPU's or VM's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// `KVM_GET_MP_STATE`.
    MpState,
    /// `KVM_GET_REG_LIST`.
    RegisterList,
    /// One register of the list, by its name to `KVM_GET_ONE_REG`.
    Register(u64),
    /// `KVM_GET_VCPU_EVENTS`.
    VcpuEvents,
    /// The VGICv3 as a whole.
    Vgic,
    /// How many interrupts the VGICv3 has.
    NrIrqs,
    /// A register of the distributor, by its offset.
    Distributor(u32),
    /// A register of a redistributor.
    Redistributor {
        /// The vCPU's id.
        vcpu: u32,
        /// The register's offset.
        offset: u32,
    },
    /// A system register of a CPU interface.
    CpuInterface {
        /// The vCPU's id.
        vcpu: u32,
        /// The register's encoding.
        register: u32,
    },
    /// The levels of 32 interrupt lines.
    LineLevels {
        /// The vCPU's id, or `None` for lines that all share.
        vcpu: Option<u32>,
        /// The first line's INTID.
        first: u32,
    },
    /// An ITS as a whole, by its place in the order in which they were created.
    Its(u32),
    /// Where an ITS lies.
    ItsAddress(u32),
    /// A register of an ITS.
    ItsRegister {
        /// The ITS.
        its: u32,
        /// The register's offset.
        offset: u32,
    },
    /// The tables of an ITS in guest memory.
    ItsTables(u32),
    /// The pending tables of the vCPUs in guest memory.
    PendingTables,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MpState => f.write_str("MP_STATE"),
            Self::RegisterList => f.write_str("the list of registers"),
            Self::Register(id) => write!(f, "register {id:#x}"),
            Self::VcpuEvents => f.write_str("VCPU_EVENTS"),
            Self::Vgic => f.write_str("the VGICv3"),
            Self::NrIrqs => f.write_str("the VGICv3's number of interrupts"),
            Self::Distributor(offset) => write!(f, "distributor register {offset:#x}"),
            Self::Redistributor { vcpu, offset } => {
                write!(f, "redistributor register {offset:#x} of vCPU {vcpu}")
            }
            Self::CpuInterface { vcpu, register } => {
                write!(f, "CPU interface register {register:#x} of vCPU {vcpu}")
            }
            Self::LineLevels { vcpu: Some(vcpu), first } => {
                write!(f, "the interrupt lines from {first} of vCPU {vcpu}")
            }
            Self::LineLevels { vcpu: None, first } => write!(f, "the interrupt lines from {first}"),
            Self::Its(its) => write!(f, "ITS {its}"),
            Self::ItsAddress(its) => write!(f, "the address of ITS {its}"),
            Self::ItsRegister { its, offset } => write!(f, "register {offset:#x} of ITS {its}"),
            Self::ItsTables(its) => write!(f, "the tables of ITS {its}"),
            Self::PendingTables => f.write_str("the tables of pending LPIs"),
        }
    }
}
