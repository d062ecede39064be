//! A small reference monitor: memory, vCPUs, devices, pause and state, on `/dev/kvm` or on the software engine.
//!
//! It exists to show the tracker at work on a whole machine, and to be read: a monitor's author finds here, in a few small
//! files, where each step of a live checkpoint goes.
//!
//! ```text
//!  Machine ─┬ CpuThreads    a thread a vCPU, and the gate at which they stop          threads, gate
//!           ├ Clock         a device thread: the monitor writes guest memory too      clock
//!           ├ Platform      /dev/kvm, or the engine with arm64's rules                platform
//!           ├ Ram           one memfd; what the monitor writes marks itself           ram, layout
//!           ├ Loading       memory of a lazily restored machine, on its way              lazy, working_set
//!           ├ Ports         serial console and ways to end                            devices
//!           └ Checkpoints   tracker, staged page copies, what the next image goes on from    checkpoint, stage
//!             Leaving, Coming   a machine on its way to another host, and from one            migrate
//! ```
//!
//! A machine runs a kernel (on x86-64 an ELF image with a PVH entry, on arm64 a flat image), or a built-in guest of
//! `ringmark-guest`, whose pages certify themselves. It
//! is made paused, by [`Machine::create`] or [`Machine::restore`], and lives until it is dropped, its guest ends, or
//! [`Machine::end`] is called.
//!
//! [`Machine::checkpoint`] copies pages in rounds while the guest runs, stops it, saves state, takes the last pages, lets it
//! run on, and only then uses the disk. Whatever fails, the guest runs on and the next checkpoint contains the pages of the
//! failed one. The order is that of [`ringmark_track::Cut`].
//!
//! ```
//! use std::io;
//! use ringmark_guest::Pattern;
//! use ringmark_image::Store;
//! use ringmark_machine::{Boot, CheckpointOptions, GuestSpec, HypervisorWish, Machine, MachineConfig};
//! use ringmark_track::{AuditRate, Wish};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let config = MachineConfig {
//!     name: "example".into(),
//!     memory: 16 << 20,
//!     vcpus: 2,
//!     its: 1,
//!     hypervisor: HypervisorWish::Engine,
//!     tracking: Wish::Auto,
//!     boot: Boot::Guest(GuestSpec { pattern: Pattern::Zipf, hot: 1 << 20, pace: 0, seed: 1 }),
//!     audit: Some(AuditRate::EVERY_PAGE),
//! };
//! let machine = Machine::create(config, Box::new(io::sink()))?;
//! machine.resume()?;
//!
//! let store = Store::create_or_open(dir.path().join("images"))?;
//! let base = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {})?;
//! let increment = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {})?;
//! assert_eq!(increment.parent, Some(base.image));
//! # Ok(()) }
//! ```

pub mod boot;
pub mod devices;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod layout;

mod checkpoint;
mod clock;
mod codec;
mod config;
mod cpu;
mod data_runs;
mod gate;
mod lazy;
mod machine;
mod migrate;
mod platform;
mod ram;
mod registers;
mod saved;
mod shared;
mod stage;
mod threads;
mod words;
mod working_set;

pub use checkpoint::{
    AuditOutcome, CheckOutcome, CheckWith, CheckWithError, Checkpoint, CheckpointError, CheckpointOptions,
    Phase, Progress,
};
pub use config::{Boot, GuestSpec, MAX_TRANSLATORS, MAX_VCPUS, MachineConfig};
pub use cpu::{CpuError, End};
pub use gate::StopTimeout;
pub use lazy::{ArrivalProgress, LazyError, LoadCause, LoadError};
pub use machine::{
    CheckError, CheckReport, CreateError, Facts, Loading, Machine, NotUndecided, PauseError, RestoreError,
    RestoreOptions, RunError, RunState,
};
pub use migrate::{ArrivalOptions, Arrivals, Coming, ForeseeError, Foreseen, Foresight, MigrateError};
pub use platform::{Hypervisor, HypervisorWish, PlatformError};
pub use ram::{MarkedMemory, Ram, RamError};
pub use registers::SavedRegisters;
pub use shared::{Share, SharedMemory};
