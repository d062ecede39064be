//! A small reference monitor.

pub mod boot;
pub mod devices;
pub mod gate;
pub mod layout;

mod checkpoint;
mod clock;
mod codec;
mod config;
mod cpu;
mod machine;
mod platform;
mod ram;
mod saved;
mod stage;
mod threads;
mod words;

pub use checkpoint::{AuditOutcome, Checkpoint, CheckpointError, CheckpointOptions, Phase, Progress};
pub use config::{Boot, GuestSpec, MAX_VCPUS, MachineConfig};
pub use cpu::{CpuError, End};
pub use machine::{
    CheckError, CheckReport, CreateError, Facts, Machine, PauseError, RestoreError, RestoreOptions, RunState,
};
pub use platform::{Hypervisor, HypervisorWish, PlatformError};
pub use ram::{Ram, RamError};
