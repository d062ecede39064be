//! What a machine is made of.

use ringmark_guest::Pattern;
use ringmark_track::Wish;

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
    /// Which hypervisor runs it.
    pub hypervisor: HypervisorWish,
    /// How its writes are tracked.
    pub tracking: Wish,
    /// What it runs.
    pub boot: Boot,
    /// Whether every cut is audited.
    pub audit: bool,
}

/// What a machine runs.
#[derive(Clone, Debug)]
pub enum Boot {
    /// An ELF image with a PVH entry.
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

/// The most vCPUs of a machine: a page holds as many certificates.
pub const MAX_VCPUS: u32 = 64;
