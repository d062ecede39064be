//! Why a machine did not leave, and what its guest does now.

use std::fmt;
use std::time::Duration;

use ringmark_dirty::SlotId;
use ringmark_track::{BoxError, CutError, MemoryError, RoundError, TrackError};

use crate::link::ConnectError;
use crate::wire::frame::FrameError;
use crate::wire::{MessageError, Refusal};

/// Why a machine did not leave.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DepartError {
    /// The destination cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not take the machine.
    #[error("the destination does not take the machine: {0}")]
    Refused(Refusal),
    /// The connection failed, or the destination sent what is none of the protocol's.
    #[error("the destination was lost: {0}")]
    Link(#[from] MessageError),
    /// It sent another message than the one that was due.
    #[error("the destination sent `{0}` out of turn")]
    OutOfTurn(&'static str),
    /// Tracking failed.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// A round could not be harvested.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// The guest could not be brought to a cut.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// Memory was to be handed over by descriptor, and cannot be.
    #[error(
        "its memory cannot be handed over by descriptor: {0}; let its pages be sent (--memory copy, or auto)"
    )]
    NoMemoryFile(String),
    /// The guest could not be stopped.
    #[error("the guest could not be stopped: {0}")]
    Stop(#[source] BoxError),
    /// The state could not be saved.
    #[error("the state of the machine could not be saved: {0}")]
    Save(#[source] BoxError),
    /// Memory could not be read.
    #[error(transparent)]
    Memory(MemoryError),
    /// The audit found pages that were written without being reported.
    #[error(
        "the audit found {} pages that changed after they had been sent though no source reported them, the first page {} of \
         memslot {}; nothing runs at the destination, and the next checkpoint is a base",
        .0.len(),
        .0.first().map_or(0, |(_, page)| *page),
        .0.first().map_or_else(String::new, |(slot, _)| slot.to_string())
    )]
    Escapes(Vec<(SlotId, u64)>),
    /// The holes of memory could not be found.
    #[error("the holes of guest memory could not be found: {0}")]
    Holes(#[source] BoxError),
    /// The goal cannot be met, and it was asked to give up rather than miss it.
    #[error(
        "the downtime would be {expected:.1?}, and {wanted:.1?} was asked for: the guest writes faster than pages are sent. \
         {advice}Give it more bandwidth, allow more downtime, or prefer the downtime that is possible (--prefer downtime)"
    )]
    Goal {
        /// What would have come of it.
        expected: Duration,
        /// What was asked for.
        wanted: Duration,
        /// What it would take, in a sentence; empty if nothing is known to help.
        advice: String,
    },
    /// It offers hashes of pages that are none of the machine's.
    #[error(transparent)]
    Seed(#[from] crate::codec::SeedError),
    /// What the destination holds is nothing to go on from.
    #[error("the pages that the destination holds are not known any more; migrate again from the start")]
    NothingHeld,
    /// The destination has everything and cannot run it.
    #[error("the destination could not make the guest ready: {0}")]
    Failed(String),
    /// It was called off.
    #[error("the migration was cancelled")]
    Cancelled,
    /// The destination fell silent after the commit, and could not be asked.
    #[error("the destination was told to run the guest and has not answered: {0}")]
    Silent(String),
}

impl From<std::io::Error> for DepartError {
    fn from(error: std::io::Error) -> Self {
        Self::Link(error.into())
    }
}

impl From<FrameError> for DepartError {
    fn from(error: FrameError) -> Self {
        Self::Link(error.into())
    }
}

/// What the guest does at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceGuest {
    /// It runs on, and every page is in the tracker.
    RunsOn,
    /// It stands still: the destination may run it, and cannot be asked.
    Undecided,
}

impl fmt::Display for SourceGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RunsOn => "the guest runs on here",
            Self::Undecided => "the guest stands still here, for it may run at the destination",
        })
    }
}

/// A departure that did not happen, or is not known to have.
#[derive(Debug, thiserror::Error)]
#[error("{error}; {guest}")]
pub struct Departed {
    /// Why.
    pub error: Box<DepartError>,
    /// What the guest does.
    pub guest: SourceGuest,
    /// What a migration that goes on from here needs, where the link was cut and the destination keeps what it has.
    pub resumable: Option<Box<super::Resumable>>,
}

impl Departed {
    pub(super) fn new(error: DepartError, guest: SourceGuest) -> Self {
        Self { error: Box::new(error), guest, resumable: None }
    }

    pub(super) fn resumable(self, resumable: Option<super::Resumable>) -> Self {
        Self { resumable: resumable.map(Box::new), ..self }
    }
}
