//! Small guests on the host's KVM, and what they show of its kernel's known faults.
//!
//! Dirty rings have faults on real kernels that no interface announces: a reset that a signal interrupts gives pages up
//! without protecting them, a ring whose vCPU is emulated in batches overflows, arm64's fault handler takes a ring without
//! a bitmap for no logging at all. The only way to know whether this host's kernel has one is to try. A [`Guest`] is a VM
//! small enough to make for that: memslots of plain memory and vCPUs that run one of two loops. The probes are
//!
//! - [`interrupted_reset`]: written pages that are logged no longer after a `KVM_RESET_DIRTY_RINGS` amid signals;
//! - [`overflow`]: entries that a small ring loses while privileged guest code writes;
//! - [`last_entry`]: whether the newest entry of a full ring precedes its store;
//! - [`ring_without_bitmap`]: pages of huge-page memory that a ring alone does not log.
//!
//! Each asks the kernel without Ringmark's tracker in between, ends within the limit it is given, and leaves nothing
//! behind. `ringmark doctor` prints their answers; the tests of this crate make the same faults happen beneath a
//! [`Tracker`](ringmark_track::Tracker) and show that it loses nothing.
//!
//! [`Faulty`] is the other direction: a VM, of KVM or the engine, whose calls fail on request as those of known kernels
//! do, so that whoever stands above it can be tested where the kernel is sound.

#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod error;
mod fault;
mod faulty;
mod guest;
mod huge;
mod interrupted;
mod last_entry;
mod overflow;
mod pages;
mod processor;
mod ram;
mod signals;
mod storm;

pub use error::ProbeError;
pub use fault::Fault;
pub use faulty::{Faulty, Interrupt};
pub use guest::{Guest, Privilege, Program};
pub use huge::{WithoutBitmap, ring_without_bitmap};
pub use interrupted::{InterruptedReset, interrupted_reset};
pub use last_entry::{LastEntry, last_entry};
pub use overflow::{Overflow, overflow};
pub use pages::{Backing, Pages};
pub use processor::{Processor, Step};
pub use ram::Ram;
pub use signals::reset_amid_signals;
pub use storm::Storm;
