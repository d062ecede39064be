//! Why memory does not arrive.

use std::io;
use std::sync::Arc;

use ringmark_dirty::SlotId;
use ringmark_image::ImageError;
use ringmark_uffd::{FillError, OpenError};

/// This host cannot let memory arrive while the guest runs. There is no guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LazyError {
    /// No userfaultfd.
    #[error("memory cannot arrive while the guest runs: {0}; restore with --eager")]
    Open(#[from] OpenError),
    /// The kernel does not take this memory.
    #[error("memory cannot arrive while the guest runs: its mapping was refused: {0}; restore with --eager")]
    Register(#[source] io::Error),
    /// A region of guest memory has no place in this process.
    #[error("guest memory is not mapped")]
    NoMapping,
    /// No thread.
    #[error("the threads that bring memory could not be started: {0}; raise the limit on processes")]
    Thread(#[source] io::Error),
}

/// A page of a machine that runs could not be brought.
#[derive(Clone, Debug, thiserror::Error)]
#[error("memory of the guest could not be brought{}: {cause}", place(*.page))]
pub struct LoadError {
    /// Which page, if one was wanted.
    pub page: Option<(SlotId, u64)>,
    /// Why.
    #[source]
    pub cause: Arc<LoadCause>,
}

/// Why a page could not be brought.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadCause {
    /// The image does not give it.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It could not be put in place.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// The machine has ended.
    #[error("the machine has ended")]
    Abandoned,
    /// It was given more than it has room for.
    #[error("page {offset} of memslot {slot} is not in guest memory")]
    NoSuchPage {
        /// The memslot.
        slot: SlotId,
        /// The page, counted from the slot's start.
        offset: u64,
    },
    /// Faults cannot be received.
    #[error("faults of the guest cannot be received: {0}")]
    Server(#[source] io::Error),
    /// It is shared with other machines, and who brings it to all of them could not.
    #[error("{0}")]
    Shared(String),
    /// It is shared with other machines, and who brings it to all of them cannot be asked.
    #[error("the process that brings it cannot be asked any more: {0}")]
    Owner(#[source] io::Error),
    /// The thread that brings pages is gone.
    #[error("the thread that brings it panicked")]
    Panicked,
}

fn place(page: Option<(SlotId, u64)>) -> String {
    page.map_or(String::new(), |(slot, offset)| format!(" (page {offset} of memslot {slot})"))
}

impl LoadError {
    pub(super) fn page(slot: SlotId, offset: u64, cause: LoadCause) -> Self {
        Self { page: Some((slot, offset)), cause: Arc::new(cause) }
    }

    pub(crate) fn background(cause: LoadCause) -> Self {
        Self { page: None, cause: Arc::new(cause) }
    }

    pub(super) fn abandoned() -> Self {
        Self::background(LoadCause::Abandoned)
    }
}
