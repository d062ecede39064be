//! Saving and restoring what KVM knows of a machine, its memory aside.

mod its;
mod part;
mod plain;
mod vcpu;
mod vgic;
mod vm;

pub use its::ItsState;
pub use part::Part;
pub use vcpu::{Register, VcpuState};
pub use vgic::{CpuState, VgicState};
pub use vm::VmState;

/// The low half: what a 32-bit attribute is, and every offset.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low_half(value: u64) -> u32 {
    value as u32
}
