//! What is x86-64's own: the platform's devices, the processor's registers, and state.

mod ioctl;
mod platform;
mod processor;
mod state;

pub use state::{Absent, Msr, Part, Plain, Raw, Sregs, StateError, VcpuState, VmState, XsaveArea};
