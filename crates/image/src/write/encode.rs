//! Extents: pages of one leaf compressed together, raw where that does not pay.

use std::cell::RefCell;
use std::io;

use ringmark_dirty::PageSize;
use zstd::bulk::Compressor;

use crate::format::node::{Encoding, FANOUT};

/// Uncompressed bytes of a full extent, unless a single page is larger: with sixteen pages of 4 KiB the compressor finds
/// most of what it would find in more, and a page that is needed at once costs the decoding of no more than fifteen others.
const EXTENT_BYTES: u64 = 64 << 10;

/// The level that keeps up with a disk: higher ones cost the guest its cores and gain little on pages.
const LEVEL: i32 = 1;

/// What a frame costs whoever decodes it, however little is in it, in bytes that are read in that time from a good disk.
/// Extents of one page, which chains of increments are full of, are compressed only if it saves as much.
const FRAME: usize = 2 << 10;

/// Bytes of an extent that are tried first.
const SAMPLE: usize = 4 << 10;
/// From how many places of it they are taken.
const SAMPLES: usize = 4;

/// The most pages of an extent.
#[allow(clippy::cast_possible_truncation, reason = "at most sixty-four")]
pub(crate) fn extent_pages(page_size: PageSize) -> u8 {
    (EXTENT_BYTES / page_size.bytes()).clamp(1, FANOUT) as u8
}

thread_local! {
    // A context is a megabyte that zstd clears when it is made; each worker thread keeps one.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `raw` to the end of `out`, or says that `raw` is better stored as it is and leaves `out` alone.
pub(crate) fn encode(raw: &[u8], out: &mut Vec<u8>) -> Encoding {
    if raw.len() > 2 * SAMPLE && !is_worth_trying(raw) {
        return Encoding::Raw;
    }
    let least = (raw.len() / 16).max(FRAME.min(raw.len() / 2));
    match compress(raw, least, out) {
        true => Encoding::Zstd,
        false => Encoding::Raw,
    }
}

/// Whether a few pieces of `raw` compress: bytes that do not, such as those of encrypted or compressed files, would cost
/// the compressor most of its time. Being wrong costs space, and nothing else.
fn is_worth_trying(raw: &[u8]) -> bool {
    let size = SAMPLE / SAMPLES;
    let mut sample = [0; SAMPLE];
    for (piece, from) in sample.chunks_exact_mut(size).zip(raw.chunks_exact(raw.len() / SAMPLES)) {
        piece.copy_from_slice(&from[..size]);
    }
    compress(&sample, SAMPLE / 16, &mut Vec::with_capacity(SAMPLE))
}

/// Appends `raw`, compressed, to `out` if that saves `least` bytes or more.
fn compress(raw: &[u8], least: usize, out: &mut Vec<u8>) -> bool {
    // zstd stops where the space ends.
    let worth = raw.len() - least.max(1);
    let start = out.len();
    out.resize(start + worth, 0);
    let compressed = COMPRESSOR.with_borrow_mut(|slot| -> io::Result<usize> {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(LEVEL)?),
        };
        compressor.compress_to_buffer(raw, &mut out[start..])
    });
    let len = compressed.ok().filter(|len| *len <= worth);
    out.truncate(start + len.unwrap_or(0));
    len.is_some()
}
