//! What a machine is made of.

use ringmark_guest::Pattern;
use ringmark_track::{AuditRate, Wish};

use crate::platform::HypervisorWish;

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Its name, carried by its images.
    pub name: String,
    /// Bytes of guest memory.
    pub memory: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Interrupt translation services (ITS), of [`MAX_TRANSLATORS`] at most. Machines of arm64 have them, and those on the
    /// engine, which follow its rules; on x86-64 there is no such thing and the number says nothing.
    pub its: u32,
    /// Which hypervisor runs it.
    pub hypervisor: HypervisorWish,
    /// How its writes are tracked.
    pub tracking: Wish,
    /// What it runs.
    pub boot: Boot,
    /// Whether every cut is audited, and how much of memory is watched then.
    pub audit: Option<AuditRate>,
}

/// What a machine runs.
#[derive(Clone, Debug)]
pub enum Boot {
    /// A kernel: on x86-64 an ELF image with a PVH entry, on arm64 a flat image with its header (`Image`).
    Kernel {
        /// The image's bytes.
        image: Vec<u8>,
        /// Its command line.
        command_line: String,
    },
    /// A built-in guest, which certifies every page it writes.
    Guest(GuestSpec),
}

/// What a built-in guest does.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpec {
    /// In which order it writes its pages.
    pub pattern: Pattern,
    /// Bytes of the region it writes.
    pub hot: u64,
    /// Idle steps after each page write; 0 is flat out.
    pub pace: u64,
    /// Determines the pattern, and tells its certificates from those of other machines.
    pub seed: u64,
}

/// The most interrupt translation services of a machine: a built-in guest programs as many.
pub const MAX_TRANSLATORS: u32 = 4;

/// The most vCPUs of a machine: a page holds as many certificates.
pub const MAX_VCPUS: u32 = 64;
