//! Guest memory as something that pages can be copied out of.

use ringmark_dirty::{PageSize, SlotId};

use crate::BoxError;

/// Guest memory, page by page.
///
/// Reads copy: the guest may write the page at the same time, so no reference into its memory exists.
pub trait Memory: Sync {
    /// The size of a page.
    fn page_size(&self) -> PageSize;

    /// Copies page `offset` of `slot` into `page`, which is exactly a page long.
    ///
    /// # Errors
    /// If there is no such page or it cannot be read.
    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies pages `offset`, `offset + 1` and so on of `slot` into `run`, which is a whole number of pages long. Worth
    /// implementing where a run costs less than its pages.
    ///
    /// # Errors
    /// As [`read`](Self::read); `run` then holds nothing in particular.
    fn read_run(&self, slot: SlotId, offset: u64, run: &mut [u8]) -> Result<(), MemoryError> {
        let length = usize::try_from(self.page_size().bytes()).unwrap_or(usize::MAX);
        run.chunks_mut(length).zip(offset..).try_for_each(|(page, offset)| self.read(slot, offset, page))
    }
}

/// A page that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("page {offset} of memslot {slot} cannot be read: {error}")]
pub struct MemoryError {
    /// The memslot.
    pub slot: SlotId,
    /// The page, counted from the slot's start.
    pub offset: u64,
    /// Why.
    #[source]
    pub error: BoxError,
}
