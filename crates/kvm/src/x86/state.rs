//! Saving and restoring what KVM knows of a machine, its memory aside.

mod msr;
mod part;
mod plain;
mod vcpu;
mod vm;

pub use msr::Msr;
pub use part::Part;
pub use plain::XsaveArea;
pub use vcpu::{Sregs, VcpuState};
pub use vm::VmState;
