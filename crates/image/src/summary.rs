//! What a store says of its images without opening their contents.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{ImageError, ImageId};

/// One image of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its identity.
    pub id: ImageId,
    /// The image that it is an increment to; `None` for a base.
    pub parent: Option<ImageId>,
    /// The name of the machine it was taken of.
    pub vm: String,
    /// When it was taken, in nanoseconds since 1970 by the clock of the machine that wrote it.
    pub created_ns: u64,
    /// The order in which images became complete in this store; the clock has no say in it.
    pub sequence: u64,
    /// Bytes of guest memory that the layout has.
    pub memory_bytes: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages that the image itself holds, zero pages included.
    pub pages: u64,
    /// Those of them that are zero.
    pub zero_pages: u64,
    /// Bytes of all its files.
    pub bytes_stored: u64,
    /// Uncompressed bytes in the pack that no page needs: pages that were put again before the image was finished.
    pub superseded_bytes: u64,
}

impl Summary {
    /// When the image was taken.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.created_ns)
    }
}

/// An entry of a store that is not a readable image.
#[derive(Debug)]
pub struct Damaged {
    /// The name of the entry.
    pub name: String,
    /// Why it cannot be read.
    pub error: ImageError,
}

/// The images of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first.
    pub images: Vec<Summary>,
    /// Entries whose metadata cannot be read.
    pub damaged: Vec<Damaged>,
}

impl Listing {
    /// The newest image of the machine `vm`.
    #[must_use]
    pub fn newest(&self, vm: &str) -> Option<&Summary> {
        self.images.iter().find(|i| i.vm == vm)
    }
}
