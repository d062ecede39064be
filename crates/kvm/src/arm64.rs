//! What is arm64's own: the processor's registers, the interrupt controller, and state.

pub mod gic;
mod ioctl;
mod processor;
pub mod register;
mod state;

pub(crate) use gic::GicParts;
pub use processor::Power;
pub use state::{Part, Register, VcpuState, VmState};
