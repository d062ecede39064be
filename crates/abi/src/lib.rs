//! The dirty-tracking interface of KVM as types and traits.
//!
//! Two crates meet it: `ringmark-engine`, the kernel's side in software, and `ringmark-kvm`, the real `/dev/kvm`.
//! Everything above is written against [`Vm`] and cannot tell which of the two it has.

pub mod gic;

mod errno;
mod numbers;
mod region;
mod vm;

pub use errno::Errno;
pub use numbers::{cap, exit, manual, mem};
pub use region::MemoryRegion;
pub use vm::{EnableCap, Vm};
