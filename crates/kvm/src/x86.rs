//! What is x86-64's own: the platform's devices, the processor's registers, and state.

mod ioctl;
mod platform;
mod processor;
mod state;

pub use state::{Msr, Part, Sregs, VcpuState, VmState, XsaveArea};
