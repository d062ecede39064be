//! Saving and restoring what KVM knows of a machine, its memory aside.

mod error;
mod msr;
mod plain;
mod vcpu;
mod vm;

pub use error::{Absent, Part, StateError};
pub use msr::Msr;
pub use plain::{Plain, Raw, XsaveArea};
pub use vcpu::{Sregs, VcpuState};
pub use vm::VmState;
