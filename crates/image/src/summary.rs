//! What a store says of its images without opening their contents.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::meta::Meta;
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
    /// Pages that were put into it, each counted once: all of memory for a base, the epoch's for an increment.
    pub pages: u64,
    /// Those of them that are zero.
    pub zero_pages: u64,
    /// Those that repeat one word of eight bytes.
    pub repeated_pages: u64,
    /// Those that were what they are in the parent.
    pub unchanged_pages: u64,
    /// Bytes of its metadata and of the packs that were made for it; what it shares with its ancestors is theirs.
    pub bytes_stored: u64,
    /// The packs that it needs, those of its ancestors included.
    pub packs: Vec<PackUse>,
}

/// A pack, and what an image has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackUse {
    /// Its name; `packs/NAME` is its key.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Pages of the image that are in it.
    pub pages: u64,
    /// Whether it was made for this image.
    pub own: bool,
}

impl Summary {
    /// Of the image `id`, whose metadata has `len` bytes.
    pub(crate) fn of(meta: &Meta, id: ImageId, len: u64) -> Self {
        let packs: Vec<PackUse> = meta
            .packs
            .iter()
            .map(|p| PackUse {
                name: p.name.clone(),
                bytes: p.len,
                pages: p.pages,
                own: p.number >= meta.first_pack,
            })
            .collect();
        let own = packs.iter().filter(|p| p.own).fold(len, |sum, p| sum.saturating_add(p.bytes));
        Self {
            id,
            parent: meta.parent,
            vm: meta.vm.clone(),
            created_ns: meta.created_ns,
            sequence: meta.sequence,
            memory_bytes: meta.layout.bytes(),
            page_size: meta.layout.page_size().bytes(),
            pages: meta.pages,
            zero_pages: meta.zero_pages,
            repeated_pages: meta.repeated_pages,
            unchanged_pages: meta.unchanged_pages,
            bytes_stored: own,
            packs,
        }
    }

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

/// What a removal has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Images.
    pub images: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Writers that had died.
    pub writers: u64,
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
