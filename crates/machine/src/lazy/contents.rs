//! Where the contents of memory come from.

use ringmark_dirty::{DirtyPages, SlotId};
use ringmark_image::{Image, RestoreError};

use super::LoadCause;

/// Takes whole pages of a slot, from a page on.
pub(crate) type Place<'a> = &'a (dyn Fn(SlotId, u64, &[u8]) -> Result<(), LoadCause> + Sync);

/// The contents of every page of a memory. Whatever it hands out has been checked.
pub(crate) trait Contents: Send + Sync {
    /// Hands page `offset` of `slot` to `place`, and with it what costs nothing more; a page of zeros may be left out.
    ///
    /// # Errors
    /// If the page cannot be had, or what `place` says.
    fn page(&self, slot: SlotId, offset: u64, place: Place<'_>) -> Result<(), LoadCause>;

    /// Hands the pages of `pages` to `place`, those of zeros left out, in whatever order is quick, perhaps from several
    /// threads at once.
    ///
    /// # Errors
    /// If a page cannot be had, or what `place` says.
    fn pages(&self, pages: &DirtyPages, place: Place<'_>) -> Result<(), LoadCause>;
}

impl Contents for Image {
    fn page(&self, slot: SlotId, offset: u64, place: Place<'_>) -> Result<(), LoadCause> {
        self.extent(slot, offset, place).map(drop).map_err(cause)
    }

    fn pages(&self, pages: &DirtyPages, place: Place<'_>) -> Result<(), LoadCause> {
        self.load(pages, place).map(drop).map_err(cause)
    }
}

fn cause(error: RestoreError<LoadCause>) -> LoadCause {
    match error {
        RestoreError::Image(error) => error.into(),
        RestoreError::Sink { source, .. } => source,
    }
}
