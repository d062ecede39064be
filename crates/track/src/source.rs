//! Where dirty pages come from.

mod backup;
mod ring;
mod standalone;

use std::fmt;

use ringmark_abi::Errno;

use crate::collector::CollectError;
use crate::{BoxError, Collected};

pub(crate) use backup::BackupBitmap;
pub(crate) use ring::RingSource;
pub(crate) use standalone::StandaloneBitmap;

/// The kinds of sources, in the order in which they are sealed.
///
/// The order is that of the kernel's documentation: the final harvest of the rings, then the kernel's bitmaps as the
/// last call into KVM, then everything that user space logs itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// The vCPUs' dirty rings.
    Ring,
    /// The kernel's bitmaps: backup or stand-alone.
    Bitmap,
    /// A source of the monitor's author, such as a vhost log.
    Other,
    /// The monitor's own writes.
    Monitor,
}

impl SourceKind {
    /// Every kind, in the order in which they are sealed.
    pub const ALL: [Self; 4] = [Self::Ring, Self::Bitmap, Self::Other, Self::Monitor];
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "dirty rings",
            Self::Bitmap => "dirty bitmap",
            Self::Other => "a further source",
            Self::Monitor => "the monitor's own writes",
        })
    }
}

/// Something that can say which pages were written.
///
/// From [`arm`](Self::arm) to [`disarm`](Self::disarm) a source forgets nothing: every page that its writer changes is
/// in the harvest that follows the change, or in a later one if the change was still under way.
///
/// Whatever a harvest gives up is owned by the epoch from then on, also where the harvest ends with an error: what it
/// put into `into` is kept. A source that cannot tell which pages were written reports them all
/// ([`Collected::suspect`]) rather than none.
pub trait Source: Send {
    /// What it is; sources are sealed in the order of their kinds.
    fn kind(&self) -> SourceKind;

    /// Starts recording and forgets what was recorded before. Called before the guest's log is switched on, and
    /// before the base is read.
    ///
    /// # Errors
    /// Nothing is recorded then; the tracker stays unarmed.
    fn arm(&mut self) -> Result<(), SourceError>;

    /// Gives up the pages written since the last harvest, while the guest runs.
    ///
    /// When it returns, the pages in `into` are *protected again*: a write that follows is recorded, so that their
    /// contents may be read.
    ///
    /// # Errors
    /// What `into` holds then counts all the same; the rest comes with a later harvest.
    fn harvest(&mut self, into: &mut Collected) -> Result<(), SourceError>;

    /// Gives up the last pages of a cut: all vCPUs are stopped and all devices saved.
    ///
    /// # Errors
    /// As [`harvest`](Self::harvest); the cut fails and is rolled back. A source whose writer turns out not to be
    /// quiet must fail.
    fn seal(&mut self, into: &mut Collected) -> Result<(), SourceError> {
        self.harvest(into)
    }

    /// How many pages a [`harvest`](Self::harvest) would give now, at most, where that can be told without one: nothing is
    /// given up or protected by it. `None` where only a harvest can tell.
    fn pending(&mut self) -> Option<u64> {
        None
    }

    /// Asked when the guest is about to run again: whether pages were written *since* the seal, which would make what
    /// was captured inconsistent.
    ///
    /// # Errors
    /// Says who wrote; the cut fails and is rolled back.
    fn unchanged_since_seal(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Stops recording.
    ///
    /// # Errors
    /// Where stopping fails; the tracker counts as unarmed all the same.
    fn disarm(&mut self) -> Result<(), SourceError>;
}

/// Why a source could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The collector of the dirty rings failed.
    #[error(transparent)]
    Collector(#[from] CollectError),
    /// An ioctl on a memslot failed.
    #[error("{call} of memslot {slot} failed: {errno}")]
    Slot {
        /// The ioctl.
        call: &'static str,
        /// The memslot.
        slot: ringmark_dirty::SlotId,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A writer is still at work though the cut is being sealed.
    #[error(
        "{writes} writes of the monitor to guest memory are unfinished: quiesce the devices before the cut is sealed"
    )]
    WriterActive {
        /// How many write guards are alive.
        writes: usize,
    },
    /// Pages were written after the seal.
    #[error(
        "{pages} pages were written after the cut was sealed ({who}): save everything that writes guest memory, and make the \
         last vCPU ioctl, before sealing"
    )]
    WrittenAfterSeal {
        /// At least this many pages.
        pages: u64,
        /// Which source saw it.
        who: SourceKind,
    },
    /// A source of the monitor's author failed.
    #[error(transparent)]
    Other(BoxError),
}
