//! The sixteen bytes that every file of an image but its state begins with.
//!
//! Eight bytes of magic, the format version as `u32`, and a `u32` that is zero. All integers are little-endian.

use std::path::Path;

use crate::ImageError;

/// The format version; zero is never valid.
pub(crate) const VERSION: u32 = 1;

/// Bytes of a header.
pub(crate) const LEN: usize = 16;

/// What `meta` begins with.
pub(crate) const META: &str = "RINGMETA";
/// What `index` begins with.
pub(crate) const INDEX: &str = "RINGINDX";
/// What `pages` begins with.
pub(crate) const PACK: &str = "RINGPACK";

/// The header of a file of kind `magic`, which has eight bytes.
pub(crate) fn encode(magic: &str) -> [u8; LEN] {
    let mut header = [0; LEN];
    header[..8].copy_from_slice(magic.as_bytes());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Checks that `bytes`, the beginning of the file `path`, are a header of kind `magic`.
pub(crate) fn check(path: &Path, bytes: &[u8], magic: &'static str) -> Result<(), ImageError> {
    let Some((head, _)) = bytes.split_first_chunk::<LEN>() else {
        return Err(match magic.as_bytes().starts_with(&bytes[..bytes.len().min(8)]) {
            true => damaged(path, format!("it ends after {} bytes", bytes.len())),
            false => ImageError::Foreign { path: path.to_owned(), expected: magic },
        });
    };
    if &head[..8] != magic.as_bytes() {
        return Err(ImageError::Foreign { path: path.to_owned(), expected: magic });
    }
    let found = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if found != VERSION {
        return Err(ImageError::Version { path: path.to_owned(), found, known: VERSION });
    }
    if head[12..] != [0; 4] {
        return Err(damaged(path, "the last four bytes of its header are not zero".to_owned()));
    }
    Ok(())
}

/// The file `path` contradicts itself or what is known of it.
pub(crate) fn damaged(path: &Path, what: String) -> ImageError {
    ImageError::Damaged { path: path.to_owned(), what }
}
