//! Why a checkpoint was not taken.

use ringmark_image::{BeginError, LayoutError, WriteError};
use ringmark_track::{CutError, Escape, MemoryError, RoundError, TrackError};

/// Why a checkpoint was not taken.
///
/// In every case earlier images are untouched, the epoch's pages are with the tracker, and, except where the message says
/// otherwise, the guest runs on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Another one is being taken.
    #[error("a checkpoint of this machine is being taken already; wait for it")]
    Busy,
    /// The machine is no more.
    #[error("the machine has ended; there is nothing to take a checkpoint of")]
    Ended,
    /// The layout is none that an image can have.
    #[error("this machine's memory cannot be put into an image: {0}")]
    Layout(#[from] LayoutError),
    /// The store takes no image.
    #[error("the checkpoint could not be begun: {0}")]
    Begin(#[from] BeginError),
    /// The store did not take this image.
    #[error("the checkpoint could not be written: {0}")]
    Write(#[from] WriteError),
    /// Tracking failed.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// A round failed.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// The cut failed.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// Guest memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The holes of guest memory could not be found.
    #[error("the memory file could not be walked: {0}")]
    Holes(std::io::Error),
    /// State that cannot be written down.
    #[error("the machine's state cannot be encoded: {0}")]
    State(String),
    /// The audit found pages that changed without being reported.
    #[error(
        "the audit found {} pages that changed though no source reported them: {}{}; the image was discarded and the next \
         checkpoint is a base",
        .0.len(),
        .0.first().map(ToString::to_string).unwrap_or_default(),
        if .0.len() > 1 { ", and others" } else { "" }
    )]
    Escapes(Vec<Escape>),
}
