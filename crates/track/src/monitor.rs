//! The monitor's own writes to guest memory, which no hypervisor sees.

mod guard;
mod log;
#[cfg(feature = "vm-memory")]
mod vm_memory;

pub use guard::WriteGuard;
pub use log::{MonitorLog, MonitorSource, SlotLog};
#[cfg(feature = "vm-memory")]
pub use vm_memory::SlotLogSlice;
