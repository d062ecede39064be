//! Putting a guest into memory.

pub mod device_tree;
pub mod elf;
pub mod flat;
#[cfg(target_arch = "x86_64")]
pub mod pvh;

/// Why a guest could not be put into memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The ELF image cannot be booted.
    #[error("the kernel file cannot be booted: {0}")]
    Elf(#[from] elf::ElfError),
    /// The flat image cannot be booted.
    #[error("the kernel file cannot be booted: {0}")]
    Flat(#[from] flat::FlatError),
    /// The boot information does not fit.
    #[cfg(target_arch = "x86_64")]
    #[error(transparent)]
    Pvh(#[from] pvh::PvhError),
    /// The device tree does not fit.
    #[error(transparent)]
    DeviceTree(#[from] device_tree::TreeError),
}
