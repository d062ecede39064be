//! The sixteen bytes that every object of an image begins with.
//!
//! Eight bytes of magic, the format version as `u32`, and a `u32` that is zero. All integers are little-endian.

use crate::ImageError;

/// The format version; zero is never valid.
pub(crate) const VERSION: u32 = 1;

/// Bytes of a header.
pub(crate) const LEN: usize = 16;

/// What metadata begins with.
pub(crate) const META: &str = "RINGMETA";
/// What a pack begins with.
pub(crate) const PACK: &str = "RINGPACK";

/// The header of an object of kind `magic`, which has eight bytes.
pub(crate) fn encode(magic: &str) -> [u8; LEN] {
    let mut header = [0; LEN];
    header[..8].copy_from_slice(magic.as_bytes());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Checks that `bytes`, the beginning of `object`, are a header of kind `magic`.
pub(crate) fn check(object: &str, bytes: &[u8], magic: &'static str) -> Result<(), ImageError> {
    let Some((head, _)) = bytes.split_first_chunk::<LEN>() else {
        return Err(match magic.as_bytes().starts_with(&bytes[..bytes.len().min(8)]) {
            true => damaged(object, format!("it ends after {} bytes", bytes.len())),
            false => ImageError::Foreign { object: object.to_owned(), expected: magic },
        });
    };
    if &head[..8] != magic.as_bytes() {
        return Err(ImageError::Foreign { object: object.to_owned(), expected: magic });
    }
    let found = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if found != VERSION {
        return Err(ImageError::Version { object: object.to_owned(), found, known: VERSION });
    }
    if head[12..] != [0; 4] {
        return Err(damaged(object, "the last four bytes of its header are not zero".to_owned()));
    }
    Ok(())
}

/// `object` contradicts itself or what is known of it.
pub(crate) fn damaged(object: &str, what: String) -> ImageError {
    ImageError::Damaged { object: object.to_owned(), what }
}
