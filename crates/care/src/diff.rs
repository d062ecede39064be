//! What differs between two images.

use ringmark_dirty::{PageSize, SlotId};
use ringmark_image::{Image, ImageError, ImageId};

/// Pages of one memslot that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The memslot.
    pub slot: SlotId,
    /// First page, from the slot's beginning.
    pub first: u64,
    /// Pages.
    pub pages: u64,
    /// Guest-physical address of the first page.
    pub address: u64,
}

/// Why two images cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// Their pages are not the same pages.
    #[error("images {a} and {b} are of different memory layouts: their pages cannot be compared")]
    Layout {
        /// One image.
        a: ImageId,
        /// The other.
        b: ImageId,
    },
    /// An index cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The pages whose contents differ between `a` and `b`, as runs in the order of guest addresses. Indexes are compared,
/// and only where they differ; no page is read.
///
/// # Errors
/// Different layouts, or an image that cannot be read.
pub fn diff(a: &Image, b: &Image) -> Result<Vec<Run>, DiffError> {
    let layout = a.layout();
    if layout != b.layout() {
        return Err(DiffError::Layout { a: a.id(), b: b.id() });
    }
    let changed = b.changes(a)?;
    let mut runs: Vec<Run> = changed
        .runs()
        .filter_map(|(slot, pages)| {
            let address = address(layout.slots().get(slot)?.base.0, pages.start, layout.page_size())?;
            Some(Run { slot, first: pages.start, pages: pages.end - pages.start, address })
        })
        .collect();
    runs.sort_unstable_by_key(|run| run.address);
    Ok(runs)
}

/// Guest-physical address of page `offset` of a slot that begins with frame `base`.
fn address(base: u64, offset: u64, page_size: PageSize) -> Option<u64> {
    base.checked_add(offset)?.checked_mul(page_size.bytes())
}
