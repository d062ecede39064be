//! Why a checkpoint was not taken.

use ringmark_image::{BeginError, LayoutError, WriteError};
use ringmark_track::{CutError, Escape, MemoryError, RoundError, SourceError, TrackError};

/// Why a checkpoint was not taken.
///
/// In every case earlier images are untouched, the epoch's pages are with the tracker, and, except where the message says
/// otherwise, the guest runs on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Another one is being taken, the machine is on its way, or is being watched for a prediction.
    #[error("a checkpoint, a migration or a prediction of this machine is under way; wait for it")]
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
    /// A base needs all of memory, and some of a lazily restored one did not come.
    #[error("a base needs all of memory: {0}")]
    Load(#[from] crate::lazy::LoadError),
    /// State that cannot be written down.
    #[error("the machine's state cannot be encoded: {0}")]
    State(String),
    /// The second look at the written pages failed.
    #[error("the check of what was written failed: {0}")]
    Check(#[source] SourceError),
    /// The second look saw pages written that were not reported.
    #[error(
        "{} pages were written, as a check with {with} saw, though no source reported them: {}{}; the image was discarded and \
         the next checkpoint is a base",
        .escapes.len(),
        .escapes.first().map(ToString::to_string).unwrap_or_default(),
        if .escapes.len() > 1 { ", and others" } else { "" }
    )]
    Unseen {
        /// What saw them.
        with: super::CheckWith,
        /// The pages.
        escapes: Vec<Escape>,
    },
    /// The audit found pages that changed without being reported.
    #[error(
        "the audit found {} pages that changed though no source reported them: {}; the image was discarded and the next \
         checkpoint is a base",
        .0.len(),
        first_of(.0)
    )]
    Escapes(Vec<Escape>),
}

/// The first few, and how many more there are.
fn first_of(escapes: &[Escape]) -> String {
    const NAMED: usize = 3;
    let named: Vec<String> = escapes.iter().take(NAMED).map(ToString::to_string).collect();
    let more = escapes.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    named.join("; ") + &rest
}
