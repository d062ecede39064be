//! Guest programs that certify every page they write; one source for bare metal and software vCPUs.
//!
//! A [`Program`] is one vCPU's loop over a region of hot pages. Every page it writes carries a [`Certificate`]: who
//! wrote it, as which of its writes, of which machine, with a checksum. Beside the pages it keeps a ledger of what
//! each of them must carry, and announces in its [`Status`] page which page it is about to write. So a machine that
//! was restored or migrated can tell, page by page, whether a write was lost: the program checks itself when asked
//! ([`request_check`], [`check_result`]), and the monitor checks a stopped machine from outside ([`inspect()`]).
//!
//! ```text
//!             monitor                              guest memory                        vCPU w
//!                                    ┌──────────────────────────────────────┐
//!  Config::publish, request_check ─▶ │ mailbox: header, control word        │ ───▶ Config::load, Program::new
//!            publish_device     ───▶ │          device page                 │ ───▶ stamps, check
//! Status::load, check_result    ◀─── │          status page of w            │ ◀─── Program::step
//!                                    │ ledger of w: tally, sequence numbers │ ◀───
//!                 inspect       ◀─── │ hot pages: lane w of each            │ ◀───
//!                                    └──────────────────────────────────────┘
//! ```
//!
//! Programs reach memory only through [`Memory`], a word at a time, and their state is a handful of words
//! ([`Program::to_words`]): a software vCPU can be cut between any two stores, saved and restored. All words are
//! little-endian; [`Config`] says where each page lies, and the sources `header.rs`, `device.rs`, `status.rs` and
//! `certificate.rs` begin with a table of its words.
//!
//! # What a check can tell
//!
//! Any page that falls back to an earlier state is named by the others: a hot page by its ledger entry, a ledger page
//! by the hot pages, both together by the sum that the status page holds, a status page by the ledger and its tally,
//! the device page by the stamps of those who read it. A program also looks at each page before it writes it again,
//! so a loss is not forgotten. Whole machines that fall back together agree with themselves, as they should.
//!
//! # On bare metal
//!
//! The crate's build script compiles the same source, with a few hundred lines of its own (`payload/`), to a program
//! that runs without an operating system, for the architecture that the crate is built for: on Linux on x86-64 the
//! static `X86_64_PVH`, an ELF file with a PVH note, and on arm64 [`arm64`]'s `IMAGE`, a flat image. The programs run
//! in ring 3 and at EL0.
//!
//! # Interrupts
//!
//! On arm64 the interrupt controller's translation services (ITS) keep tables in guest memory, and write them with no
//! vCPU running. Whether an image has them is told by interrupts alone. So where the monitor publishes [`Interrupts`],
//! the program on the first vCPU maps hundreds of devices' events, raises them, maps them anew all the while, and keeps
//! a ledger of what was raised for whom beside what was taken ([`Driver`]). A check finds interrupts that never come
//! ([`DamageKind::InterruptLost`]) or come unasked ([`DamageKind::InterruptRepeated`]); [`inspect()`] looks at the
//! ledger too.

#![no_std]

pub mod arm64;
#[cfg(pvh_payload)]
mod bare_metal;
mod boot_line;
mod certificate;
mod config;
mod control;
mod damage;
mod device;
mod header;
mod inspect;
mod interrupts;
mod memory;
mod pattern;
mod program;
mod random;
mod start_info;
mod status;
mod walk;

#[cfg(pvh_payload)]
pub use bare_metal::X86_64_PVH;
pub use boot_line::{BootLine, HALT_PORT, UnknownWord};
pub use certificate::{Certificate, LANE_BYTES};
pub use config::{Config, ConfigError};
pub use control::{Command, Control};
pub use damage::{Damage, DamageKind, NAMED, Report};
pub use device::{DeviceRecord, publish as publish_device};
pub use header::{HeaderError, MAGIC, MAILBOX};
pub use inspect::inspect;
pub use interrupts::{
    Board, Counted, Driver, FIRST_LPI, Interrupts, InterruptsConfigError, InterruptsError, Tally,
};
pub use memory::{Load, Memory};
pub use pattern::{Pattern, Pick, Picker, UnknownPattern};
pub use program::{Program, RestoreError, Step};
pub use start_info::{StartInfo, StartInfoError};
pub use status::{InFlight, State, Status, check_result, request_check};
