//! One image being written.

use std::time::{SystemTime, UNIX_EPOCH};

use ringmark_dirty::SlotId;

use crate::meta::{Meta, StateRecord};
use crate::pack::{Complete, Pack};
use crate::publish::Unpublished;
use crate::{ImageId, Layout, WriteError};

/// What an image is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// The name of the machine: 1 to 255 bytes without control characters.
    pub vm: String,
    /// The image that this one is an increment to; `None` for a base, which has to hold every page.
    pub parent: Option<ImageId>,
    /// The memory layout; that of the parent, if there is one.
    pub layout: Layout,
    /// When the image was taken, by the clock on the wall.
    pub created: SystemTime,
}

/// What a finished image came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its identity.
    pub id: ImageId,
    /// Pages it holds, zero pages included.
    pub pages: u64,
    /// Those of them that are zero and cost nothing.
    pub zero_pages: u64,
    /// Bytes of all its files.
    pub bytes_stored: u64,
    /// How often a page was put again; what was put before is dead space in the pack, unless it was zero.
    pub superseded_pages: u64,
}

/// One image being written.
///
/// The writer owns nothing of the caller's: until [`finish`](Self::finish) has returned `Ok`, the pages that were put
/// belong to the caller's epoch, and after any error they belong into the next image. Dropping a writer removes what
/// it wrote.
///
/// Pages are compressed and stored by threads of the writer while `put` goes on. About 40 MiB of memory hold what is
/// under way, and 16 bytes a page where it went; `put` waits when the disk is slower than the caller.
#[derive(Debug)]
pub struct Writer {
    // Fields drop in this order: the threads end before the directory is removed.
    pack: Pack,
    image: Unpublished,
    spec: ImageSpec,
    /// The first error of this writer; every later call repeats it.
    failed: Option<WriteError>,
}

impl Writer {
    pub(crate) fn new(spec: ImageSpec, pack: Pack, image: Unpublished) -> Self {
        Self { pack, image, spec, failed: None }
    }

    /// Takes whole pages, the first of them `first` pages into `slot`. Of a page that is put more than once, the last
    /// put wins. Returns before the pages are stored, so that an error may belong to an earlier put.
    ///
    /// # Errors
    /// Pages outside of the layout or in part, which change nothing; or a disk that is full or fails, after which this
    /// image is lost.
    pub fn put(&mut self, slot: SlotId, first: u64, bytes: &[u8]) -> Result<(), WriteError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let page_size = self.spec.layout.page_size();
        let len = bytes.len() as u64;
        if !page_size.is_aligned(len) {
            return Err(WriteError::PartialPage {
                slot,
                first,
                len: bytes.len(),
                page_size: page_size.bytes(),
            });
        }
        let pages = page_size.pages_in(len);
        self.check(slot, first, pages)?;
        let put = self.pack.put(slot, first, bytes);
        self.keep(put)
    }

    /// Takes `pages` zero pages, the first of them `first` pages into `slot`, without their bytes: for memory that is
    /// known to have been written by nobody. Costs no more for a whole memslot than for a page.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_zero(&mut self, slot: SlotId, first: u64, pages: u64) -> Result<(), WriteError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if pages == 0 {
            return Ok(());
        }
        self.check(slot, first, pages)?;
        let put = self.pack.put_zero(slot, first, pages);
        self.keep(put)
    }

    /// Takes one part of the machine state. A name is 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`, and is put once.
    ///
    /// The part is on the disk when this returns: it is not a call to make while the guest is paused.
    ///
    /// # Errors
    /// A name that is impossible or was put already, or more state than an image holds, which change nothing; or a
    /// disk that is full or fails, after which this image is lost.
    pub fn put_state(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let put = self.image.put_state(name, bytes);
        match put {
            Err(WriteError::StateName(_) | WriteError::StateSize { .. }) => put,
            _ => self.keep(put),
        }
    }

    /// Bytes of the pack that were handed to the file system so far; for a display of progress.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.pack.written()
    }

    /// Completes the image. When this returns `Ok`, the image is durable and visible.
    ///
    /// # Errors
    /// A base that misses pages; a disk that is full or fails, be it only in making the image durable. The image then
    /// does not exist, and earlier ones are intact.
    pub fn finish(self) -> Result<Finished, WriteError> {
        let Self { pack, image, spec, failed } = self;
        if let Some(error) = failed {
            // The threads end before the directory is removed.
            drop(pack);
            return Err(error);
        }
        let Complete { table, extents, file: pack } = pack.finish()?;
        let missing = if spec.parent.is_none() { table.missing() } else { None };
        if let Some((slot, offset, missing)) = missing {
            return Err(WriteError::Incomplete { slot, offset, missing });
        }
        let superseded_pages = table.superseded();
        let superseded_bytes = table.superseded_stored() * spec.layout.page_size().bytes();
        let mut index = table.into_index();
        index.extents = extents;
        let (pages, zero_pages) = index.pages();
        let index = image.write_file("index", &index.encode())?;
        let states =
            image.states().map(|(name, file)| StateRecord { name: name.clone(), file: file.clone() });
        let meta = Meta {
            vm: spec.vm,
            created_ns: nanoseconds(spec.created),
            sequence: 0,
            nonce: image.nonce()?,
            parent: spec.parent,
            layout: spec.layout,
            pages,
            zero_pages,
            superseded_bytes,
            index,
            pack,
            states: states.collect(),
        };
        let (id, bytes_stored) = image.publish(meta)?;
        Ok(Finished { id, pages, zero_pages, bytes_stored, superseded_pages })
    }

    fn check(&self, slot: SlotId, first: u64, pages: u64) -> Result<(), WriteError> {
        match self.spec.layout.pages_from(slot, first) {
            Some(room) if room >= pages => Ok(()),
            _ => Err(WriteError::OutOfRange { slot, first, end: first.saturating_add(pages) }),
        }
    }

    fn keep<T>(&mut self, result: Result<T, WriteError>) -> Result<T, WriteError> {
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }
}

/// Nanoseconds since 1970; a clock before that, or after 2554, is taken for the nearest of these.
fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
