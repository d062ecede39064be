//! Guest memory as a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringmark_dirty::SlotId;
use ringmark_image::{Image, RestoreError};

use crate::core::{self, Core, CoreError};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Length of the file; it is sparse where memory is zero or not there.
    pub length: u64,
    /// Bytes of pages that were written.
    pub written: u64,
}

/// Why there is no file. None is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is a file of that name.
    #[error("{0} is there already: name another file, or remove it")]
    Exists(PathBuf),
    /// The file system refused.
    #[error("{doing} {path} failed: {error}; nothing was left behind")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ringmark_image::ImageError),
    /// Headers of a core file cannot be made.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// Writes the memory of `image` to a new file at `path`, each byte at its guest-physical address.
///
/// # Errors
/// [`ExportError`].
pub fn raw(image: &Image, path: &Path) -> Result<Exported, ExportError> {
    let offsets: Vec<(SlotId, u64)> = ranges(image).map(|(slot, start, _)| (slot, start)).collect();
    let length = ranges(image).map(|(_, start, length)| start + length).max().unwrap_or_default();
    write(image, path, &[], &offsets, length)
}

/// Writes memory and registers of `image` to a new core file at `path`.
///
/// # Errors
/// [`ExportError`].
pub fn elf(image: &Image, core: &Core, path: &Path) -> Result<Exported, ExportError> {
    let memory: Vec<(u64, u64)> = ranges(image).map(|(_, start, length)| (start, length)).collect();
    let headers = core::headers(core, &memory, image.layout().page_size().bytes())?;
    let offsets: Vec<(SlotId, u64)> = ranges(image).map(|(slot, ..)| slot).zip(headers.offsets).collect();
    write(image, path, &headers.bytes, &offsets, headers.length)
}

/// Memslots by address, each with its first address and its bytes.
fn ranges(image: &Image) -> impl Iterator<Item = (SlotId, u64, u64)> {
    let shift = image.layout().page_size().shift();
    let mut slots: Vec<_> = image.layout().slots().iter().collect();
    slots.sort_by_key(|slot| slot.base);
    slots.into_iter().map(move |slot| (slot.id, slot.base.0 << shift, slot.npages << shift))
}

/// Writes `head`, and each memslot at its offset; the file takes its name when it is complete and durable.
fn write(
    image: &Image,
    path: &Path,
    head: &[u8],
    offsets: &[(SlotId, u64)],
    length: u64,
) -> Result<Exported, ExportError> {
    let failed = |doing| {
        let path = path.to_owned();
        move |error| ExportError::Io { doing, path, error }
    };
    if path.exists() {
        return Err(ExportError::Exists(path.to_owned()));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Readable by its owner only, as guest memory should be.
    let file = tempfile::Builder::new().prefix(".ringmark-export-").tempfile_in(dir);
    let file = file.map_err(failed("creating"))?;
    let to: &File = file.as_file();
    to.set_len(length).map_err(failed("sizing"))?;
    to.write_all_at(head, 0).map_err(failed("writing"))?;
    let shift = image.layout().page_size().shift();
    let restored = image.restore(|slot, first, bytes: &[u8]| {
        let start = offsets.iter().find(|(id, _)| *id == slot).map(|(_, start)| *start);
        let start = start.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        to.write_all_at(bytes, start + (first << shift))
    });
    let restored = restored.map_err(|error| match error {
        RestoreError::Image(error) => ExportError::Image(error),
        RestoreError::Sink { source, .. } => failed("writing")(source),
    })?;
    to.sync_all().map_err(failed("syncing"))?;
    file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => ExportError::Exists(path.to_owned()),
        _ => failed("naming")(error.error),
    })?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("syncing the directory of"))?;
    Ok(Exported { length, written: restored.pages << shift })
}
