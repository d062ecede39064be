//! Extents: pages compressed together, raw where that does not pay.

use std::cell::RefCell;
use std::io;

use ringmark_dirty::PageSize;
use zstd::bulk::{Compressor, Decompressor};

/// Uncompressed bytes of a full extent, unless a single page is larger.
const EXTENT_BYTES: u64 = 128 << 10;

/// The level that keeps up with a disk: higher ones cost the guest its cores and gain little on pages.
const LEVEL: i32 = 1;

/// How an extent is stored. Zero is never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Raw,
    Zstd,
}

impl Encoding {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Raw => 1,
            Self::Zstd => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Raw),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Pages of a full extent.
#[allow(clippy::cast_possible_truncation, reason = "a page has at least 512 bytes, so it is 256 at most")]
pub(crate) fn extent_pages(page_size: PageSize) -> u16 {
    (EXTENT_BYTES / page_size.bytes()).max(1) as u16
}

thread_local! {
    // A context is a megabyte that zstd clears when it is made; each worker thread keeps one.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `raw` into `out`, or says that `raw` is better stored as it is.
pub(crate) fn encode(raw: &[u8], out: &mut Vec<u8>) -> Encoding {
    out.clear();
    // A sixteenth is what reading and decoding has to be worth. zstd stops where the space ends.
    let worth = raw.len() - raw.len() / 16;
    out.reserve_exact(worth);
    let compressed = COMPRESSOR.with_borrow_mut(|slot| -> io::Result<usize> {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(LEVEL)?),
        };
        compressor.compress_to_buffer(raw, out)
    });
    match compressed {
        Ok(len) if len <= worth => Encoding::Zstd,
        _ => Encoding::Raw,
    }
}

/// Decodes the zstd frame `stored` to exactly `raw`.
pub(crate) fn decode(stored: &[u8], raw: &mut [u8]) -> Result<(), String> {
    let len = DECOMPRESSOR
        .with_borrow_mut(|slot| -> io::Result<usize> {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(stored, raw)
        })
        .map_err(|e| e.to_string())?;
    if len == raw.len() { Ok(()) } else { Err(format!("{len} bytes instead of {}", raw.len())) }
}
