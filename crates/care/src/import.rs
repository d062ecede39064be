//! Raw memory as an image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ringmark_dirty::{Memslot, PageSize, SlotId, SlotTable, SlotTableError};
use ringmark_image::{BeginError, Finished, ImageSpec, Layout, LayoutError, Store, WriteError};

/// Bytes that are read at a time; a multiple of every page size.
const CHUNK: u64 = Layout::MAX_PAGE;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

/// What is imported, and as what.
#[derive(Clone, Debug)]
pub struct Import<'a> {
    /// The file: every byte at its guest-physical address.
    pub file: &'a Path,
    /// The machine's name.
    pub vm: &'a str,
    /// The granule of the image.
    pub page_size: PageSize,
    /// The addresses that are memory, each range a memslot; the whole file if there is none.
    pub regions: &'a [Region],
    /// The time that the image says it was taken at.
    pub created: SystemTime,
}

/// Why there is no image. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("{doing} {path} failed: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A region that is no whole number of pages.
    #[error(
        "{length:#x} bytes at {start:#x} are not whole pages of {page_size}: give another page size, or regions"
    )]
    Unaligned {
        /// First address.
        start: u64,
        /// Bytes.
        length: u64,
        /// The page size.
        page_size: PageSize,
    },
    /// A region that the file does not reach.
    #[error("memory up to {end:#x} is asked for, but {path} ends at {length:#x}")]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
        /// Where the region ends.
        end: u64,
    },
    /// Regions that overlap, or the like.
    #[error("these regions are no memory: {0}")]
    Slots(#[from] SlotTableError),
    /// Regions that no image can have.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No image can be begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The image was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes a base of raw memory to `store`. It has no machine state: it can be compared, exported and looked into, but
/// not restored.
///
/// # Errors
/// [`ImportError`].
pub fn import(store: &Store, import: &Import<'_>) -> Result<Finished, ImportError> {
    let failed = |doing| {
        let path = import.file.to_owned();
        move |error| ImportError::Io { doing, path, error }
    };
    let file = File::open(import.file).map_err(failed("opening"))?;
    let length = file.metadata().map_err(failed("looking at"))?.len();
    let whole = [Region { start: 0, length }];
    let regions = if import.regions.is_empty() { &whole } else { import.regions };
    let layout = Layout::new(import.page_size, slots(import, regions, length)?)?;
    let mut writer = store.begin(ImageSpec {
        vm: import.vm.to_owned(),
        parent: None,
        layout: layout.clone(),
        created: import.created,
    })?;
    let mut buf = Vec::new();
    for (slot, region) in layout.slots().iter().zip(regions) {
        let mut done = 0;
        while done < region.length {
            let bytes = CHUNK.min(region.length - done);
            buf.resize(usize::try_from(bytes).unwrap_or_default(), 0);
            file.read_exact_at(&mut buf, region.start + done).map_err(failed("reading"))?;
            writer.put(slot.id, import.page_size.pages_in(done), &buf)?;
            done += bytes;
        }
    }
    Ok(writer.finish()?)
}

/// A memslot for each region, numbered in their order.
fn slots(import: &Import<'_>, regions: &[Region], length: u64) -> Result<SlotTable, ImportError> {
    let page_size = import.page_size;
    let mut slots = Vec::with_capacity(regions.len());
    for (index, region) in regions.iter().enumerate() {
        let Region { start, length: bytes } = *region;
        if bytes == 0 || !page_size.is_aligned(start) || !page_size.is_aligned(bytes) {
            return Err(ImportError::Unaligned { start, length: bytes, page_size });
        }
        let end = start.saturating_add(bytes);
        if end > length {
            return Err(ImportError::TooShort { path: import.file.to_owned(), length, end });
        }
        let id = SlotId::new(0, u16::try_from(index).map_err(|_| LayoutError::TooManySlots(regions.len()))?);
        slots.push(Memslot { id, base: page_size.gfn(start), npages: page_size.pages_in(bytes) });
    }
    Ok(SlotTable::new(slots)?)
}
