//! Sources, epochs, the cut and the audit: every written page, merged, owned and accounted for.
//!
//! A virtual machine's memory is written by its vCPUs, by the hypervisor, by devices and by the monitor itself, and
//! each of them is logged somewhere else. A [`Tracker`] merges them. Who takes checkpoints, migrates, replicates or
//! analyses asks it for an *epoch*, the set of pages written between two *cuts*, and never learns where a dirty bit
//! came from.
//!
//! # In the order of a VM's life
//!
//! 1. [`negotiate`] agrees with the host on dirty rings or bitmaps: right after the VM is created, before its first
//!    vCPU and its first memslot. What would lose pages of a VM with these [`Needs`] is refused.
//! 2. [`Tracker::new`]; a ring for each vCPU by [`Tracker::add_ring`], whose thread answers a ring-full exit with
//!    [`RingFull::drain`]; the monitor's own writes by a [`MonitorLog`], over which vm-memory's regions mark
//!    themselves; whatever else writes guest memory as a [`Source`].
//! 3. [`Tracker::arm`]: from here on no write is missed, and the first epoch is the base, every page.
//! 4. [`Tracker::open`] an epoch, copy pages in [rounds](OpenEpoch::round) while the guest runs, then walk the [`Cut`]:
//!    stop, save devices, seal, capture the last pages, resume. No other order compiles.
//! 5. [`Epoch::commit`] when the data is durable. An epoch that is dropped instead, at any point, is part of the next.
//!
//! `examples/monitor.rs` is all of it in one small monitor.
//!
//! # What is promised
//!
//! For two cuts of committed epochs: a page whose content differs is in the epoch between them, and its content was
//! read after the write. This holds for every writer that is logged, also when a step fails, a value is dropped, a
//! thread panics or the kernel misbehaves in a way it is known to: then whole slots are reported rather than one page
//! too few, and an [`Event`] says so. The [`Audit`] checks the promise by eight bytes a page, and names each page
//! that broke it; a [`Differential`] holds it against a second source that shares nothing with the first.
//!
//! # Who waits for whom
//!
//! One lock covers harvest, reset and every change of a slot's log; its holder waits for nothing. One thread owns all
//! rings, with every signal blocked, and takes only that lock. A vCPU with a full ring waits for that thread, and
//! whoever stops the vCPUs waits for the vCPUs and holds no lock meanwhile; so neither can wait for ever. If that
//! thread has ended, who asks it gets an error. A vCPU that a [`Throttle`] holds up waits for time to pass, and is woken
//! when it is to be stopped.

mod advice;
mod audit;
mod collected;
mod collector;
mod cut;
mod differential;
mod epoch;
mod error;
mod event;
#[cfg(test)]
mod explorer;
mod memory;
mod method;
mod monitor;
mod needs;
mod negotiate;
mod reaper;
mod reports;
mod source;
mod throttle;
mod tracker;

pub use advice::{Advice, Advisor, BITMAP_PAGES, BITMAP_SHARE, DIRTY_SHARE, EpochCost, FIRST_WRITE};
pub use audit::{Audit, AuditRate, AuditRateError, AuditReport, Escape};
pub use collected::Collected;
pub use collector::{CollectError, CollectorStats, Drained, RingFull};
pub use cut::{Cut, CutError, DevicesSaved, GuestState, Running, Sealed, Step, Stopped, Vcpus};
pub use differential::{Differential, DifferentialReport, MemoryHashes, WriteProtect, WriteProtectError};
pub use epoch::{BySource, Epoch, OpenEpoch, RoundError};
pub use error::BoxError;
pub use event::{Event, EventLog};
pub use memory::{Memory, MemoryError};
pub use method::{Chosen, Method, Wish};
#[cfg(feature = "vm-memory")]
pub use monitor::SlotLogSlice;
pub use monitor::{MonitorLog, MonitorSource, SlotLog, WriteGuard};
pub use needs::{KernelWrites, Mapping, Needs};
pub use negotiate::{NegotiateError, negotiate};
pub use reports::{LastReport, Reports, Sources};
pub use source::{Source, SourceError, SourceKind};
pub use throttle::{Slowed, Throttle};
pub use tracker::{StatsReader, TrackError, Tracker};
