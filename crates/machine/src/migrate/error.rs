//! Why a machine did not leave.

use ringmark_migrate::send::{DepartError, Departed, SourceGuest};

use crate::lazy::LoadError;

/// Why a machine did not leave.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// A checkpoint is being taken, it is on its way, or is being watched for a prediction.
    #[error("a checkpoint, a migration or a prediction of this machine is under way; wait for it")]
    Busy,
    /// The machine is no more.
    #[error("the machine has ended; there is no guest to migrate")]
    Ended,
    /// An earlier migration is undecided.
    #[error(
        "the guest may run at the destination of an earlier migration, and stands still here until that is decided"
    )]
    Undecided,
    /// Some of a lazily restored memory did not come.
    #[error("a migration needs all of memory: {0}")]
    Load(#[from] LoadError),
    /// What the machine needs cannot be written down.
    #[error("what the machine needs cannot be encoded: {0}")]
    Needs(String),
    /// There is no migration to go on with.
    #[error(
        "there is no migration of this machine to go on with: none was cut off, or its guest has been tracked anew since then"
    )]
    NothingToResume,
    /// The migration failed.
    #[error("{departed}")]
    Departed {
        /// Why, and what the guest does.
        departed: Departed,
        /// Whether it can be gone on with: [`resume_migration`](crate::Machine::resume_migration).
        resumable: bool,
    },
}

impl MigrateError {
    /// What the guest does at the source.
    #[must_use]
    pub const fn guest(&self) -> Option<SourceGuest> {
        match self {
            Self::Departed { departed, .. } => Some(departed.guest),
            _ => None,
        }
    }

    /// Whether the migration can be gone on with.
    #[must_use]
    pub const fn is_resumable(&self) -> bool {
        matches!(self, Self::Departed { resumable: true, .. })
    }

    /// What the migration failed with, once it had begun.
    #[must_use]
    pub fn departure(&self) -> Option<&DepartError> {
        match self {
            Self::Departed { departed, .. } => Some(&departed.error),
            _ => None,
        }
    }
}
