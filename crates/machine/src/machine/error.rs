//! Why a machine could not be made.

use ringmark_image::{ImageError, ImageId, RestoreError as ImageRestoreError};
use ringmark_track::{MemoryError, NegotiateError, TrackError};

use crate::boot::BootError;
use crate::config::{MAX_TRANSLATORS, MAX_VCPUS};
use crate::cpu::CpuError;
use crate::layout::LayoutError;
use crate::lazy::{LazyError, LoadError};
use crate::platform::PlatformError;
use crate::ram::RamError;

/// Why a machine could not be made. There is no guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// More vCPUs than a machine has room for, or none.
    #[error("a machine has 1 to {MAX_VCPUS} vCPUs, not {0}")]
    Vcpus(u32),
    /// More interrupt translation services than a machine has room for.
    #[error("a machine has at most {MAX_TRANSLATORS} interrupt translation services, not {0}")]
    Translators(u32),
    /// A memory size that no machine has.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Memory could not be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The hypervisor refused.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Tracking is not possible as asked.
    #[error(transparent)]
    Negotiate(#[from] NegotiateError),
    /// Tracking could not be set up.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// The guest cannot be put into memory.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The engine cannot run a kernel.
    #[error("the software engine runs built-in guests only; a kernel needs /dev/kvm (see `ringmark doctor`)")]
    KernelOnEngine,
    /// The host's page size is none that memory can be tracked in.
    #[error("the host's page size is no power of two")]
    PageSize,
    /// The built-in guest's mailbox could not be written.
    #[error("the built-in guest's mailbox could not be written: {0}")]
    Mailbox(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}; raise the limit on processes")]
    Thread(#[source] std::io::Error),
}

/// Why a machine that ran could not go on. The guest is stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A vCPU.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A page of a machine that was restored lazily.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Why a machine could not be restored. There is no guest; the image is untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The machine could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The image could not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A page of the image is damaged or does not fit.
    #[error("memory could not be restored: {0}")]
    Pages(#[from] ImageRestoreError<MemoryError>),
    /// The machine state in the image is damaged.
    #[error("the machine state in the image is damaged: {0}")]
    State(String),
    /// Taken on another hypervisor or processor.
    #[error(
        "the image was taken on {found_hypervisor} of {found_architecture}, and this host would restore it on {here}; restore \
         it on a host like the first, with --hypervisor {found_hypervisor}"
    )]
    Elsewhere {
        /// The hypervisor of the image.
        found_hypervisor: &'static str,
        /// The processor of the image.
        found_architecture: String,
        /// What this host offers.
        here: String,
    },
    /// Another page size, or a memory layout that this monitor does not make.
    #[error("the image's memory cannot be laid out here: {0}")]
    Layout(String),
    /// Memory differs from what was hashed at the cut.
    #[error(
        "restored memory is not what it was at the cut: its digest is {found:#018x} instead of {expected:#018x}"
    )]
    Digest {
        /// At the cut.
        expected: u64,
        /// Now.
        found: u64,
    },
    /// The memory to be shared is another image's.
    #[error("the memory to be shared is that of image {shared}, and the machine that of image {image}")]
    OtherImage {
        /// Whose memory it is.
        shared: ImageId,
        /// Which machine was to be restored.
        image: ImageId,
    },
    /// Restored memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Memory cannot arrive while the guest runs.
    #[error(transparent)]
    Lazy(#[from] LazyError),
    /// Memory that the restore itself needs did not arrive.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<PlatformError> for RestoreError {
    fn from(error: PlatformError) -> Self {
        Self::Create(error.into())
    }
}
