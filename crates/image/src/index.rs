//! The index of an image: which extent of the pack holds which page, and the hash of every page.
//!
//! After the header, three counts as `u64`: extents, runs, hashes. Then:
//!
//! - *extents*, eight bytes each: stored length `u32`, pages `u16`, encoding `u8`, zero `u8`. They tile the pack
//!   behind its header, so that their offsets are the sums of the lengths before.
//! - *runs*, twenty bytes each, five `u32`: memslot, first page, pages, extent, pages of the extent before the run.
//!   They ascend by memslot and page and do not overlap. A run of zero pages has the extent `0xffff_ffff`.
//! - *hashes*: xxh3-64 of each page of each run that is not zero, in the order of the runs.

use ringmark_dirty::SlotId;

use crate::encode::{Encoding, extent_pages};
use crate::{Layout, header};

/// The extent of a run of zero pages.
pub(crate) const ZERO: u32 = u32::MAX;

const COUNTS: usize = 24;
const EXTENT: usize = 8;
const RUN: usize = 20;
const HASH: usize = 8;

/// A stretch of the pack that is decoded as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Of its first byte in the file.
    pub(crate) offset: u64,
    /// Bytes in the file.
    pub(crate) len: u32,
    /// Pages that it decodes to.
    pub(crate) pages: u16,
    pub(crate) encoding: Encoding,
}

/// Consecutive pages of a memslot that are zero, or lie side by side in one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) slot: u32,
    pub(crate) first: u32,
    pub(crate) npages: u32,
    /// Number of the extent, or [`ZERO`].
    pub(crate) extent: u32,
    /// Pages of the extent before the run.
    pub(crate) skip: u32,
    /// Where the hashes of the run begin.
    pub(crate) hash: u64,
}

/// An index, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) extents: Vec<Extent>,
    pub(crate) runs: Vec<Run>,
    pub(crate) hashes: Vec<u64>,
}

impl Index {
    /// The bytes of the index file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = self.extents.len() * EXTENT + self.runs.len() * RUN + self.hashes.len() * HASH;
        let mut out = Vec::with_capacity(header::LEN + COUNTS + len);
        out.extend_from_slice(&header::encode(header::INDEX));
        for count in [self.extents.len(), self.runs.len(), self.hashes.len()] {
            out.extend_from_slice(&(count as u64).to_le_bytes());
        }
        for extent in &self.extents {
            out.extend_from_slice(&extent.len.to_le_bytes());
            out.extend_from_slice(&extent.pages.to_le_bytes());
            out.extend_from_slice(&[extent.encoding.code(), 0]);
        }
        for run in &self.runs {
            for field in [run.slot, run.first, run.npages, run.extent, run.skip] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        for hash in &self.hashes {
            out.extend_from_slice(&hash.to_le_bytes());
        }
        out
    }

    /// The index in `bytes`, header included, of a memory of `layout` and a pack of `pack_len` bytes; or what is
    /// wrong with it.
    pub(crate) fn decode(bytes: &[u8], layout: &Layout, pack_len: u64) -> Result<Self, String> {
        let body = bytes.get(header::LEN..).ok_or("it has no header")?;
        let Some((counts, body)) = body.split_at_checked(COUNTS) else {
            return Err("it ends within its counts".to_owned());
        };
        let counts: Vec<u64> = counts.chunks_exact(8).map(u64_at).collect();
        let [extents, runs, hashes] = [counts[0], counts[1], counts[2]];
        let want = u128::from(extents) * EXTENT as u128
            + u128::from(runs) * RUN as u128
            + u128::from(hashes) * HASH as u128;
        if want != body.len() as u128 {
            return Err(format!(
                "{extents} extents, {runs} runs and {hashes} hashes take {want} bytes, but {} follow",
                body.len()
            ));
        }
        // Each count is now at most the length of the body, which is in memory.
        let too_many = |_| "it has more entries than memory can hold".to_owned();
        let (extents, rest) = body.split_at(usize::try_from(extents).map_err(too_many)? * EXTENT);
        let (runs, hashes) = rest.split_at(usize::try_from(runs).map_err(too_many)? * RUN);
        let extents = decode_extents(extents, layout, pack_len)?;
        let hashes: Vec<u64> = hashes.chunks_exact(HASH).map(u64_at).collect();
        let runs = decode_runs(runs, layout, &extents, hashes.len() as u64)?;
        Ok(Self { extents, runs, hashes })
    }

    /// Pages of all runs, and the zero ones among them.
    pub(crate) fn pages(&self) -> (u64, u64) {
        self.runs.iter().fold((0, 0), |(all, zero), run| {
            let n = u64::from(run.npages);
            (all + n, if run.extent == ZERO { zero + n } else { zero })
        })
    }
}

fn decode_extents(bytes: &[u8], layout: &Layout, pack_len: u64) -> Result<Vec<Extent>, String> {
    if bytes.len() / EXTENT >= ZERO as usize {
        return Err(format!("{} extents are more than runs can name", bytes.len() / EXTENT));
    }
    let page_size = layout.page_size().bytes();
    let most = extent_pages(layout.page_size());
    let mut offset = header::LEN as u64;
    let mut extents = Vec::with_capacity(bytes.len() / EXTENT);
    for (i, entry) in bytes.chunks_exact(EXTENT).enumerate() {
        let len = u32_at(&entry[0..4]);
        let pages = u16::from_le_bytes([entry[4], entry[5]]);
        let encoding = Encoding::from_code(entry[6]);
        let full = u64::from(pages) * page_size;
        let right = match encoding {
            Some(Encoding::Raw) => u64::from(len) == full,
            Some(Encoding::Zstd) => len > 0 && u64::from(len) < full,
            None => false,
        };
        let Some(encoding) = encoding.filter(|_| right && entry[7] == 0 && (1..=most).contains(&pages))
        else {
            return Err(format!(
                "extent {i} has {pages} pages in {len} bytes, encoding {}, padding {}",
                entry[6], entry[7]
            ));
        };
        extents.push(Extent { offset, len, pages, encoding });
        offset += u64::from(len);
    }
    if offset != pack_len {
        return Err(format!("its extents end at byte {offset} of a pack of {pack_len} bytes"));
    }
    Ok(extents)
}

fn decode_runs(bytes: &[u8], layout: &Layout, extents: &[Extent], hashes: u64) -> Result<Vec<Run>, String> {
    let mut runs = Vec::with_capacity(bytes.len() / RUN);
    let mut hash = 0;
    // The end of the run before, as memslot and page.
    let mut end = (0, 0);
    for (i, entry) in bytes.chunks_exact(RUN).enumerate() {
        let field = |n: usize| u32_at(&entry[4 * n..4 * n + 4]);
        let run =
            Run { slot: field(0), first: field(1), npages: field(2), extent: field(3), skip: field(4), hash };
        let left = layout.pages_from(SlotId::from_raw(run.slot), run.first.into()).unwrap_or(0);
        if run.npages == 0 || u64::from(run.npages) > left {
            return Err(format!(
                "run {i} is of {} pages from page {} of memslot {}, which are not in the memory layout",
                run.npages,
                run.first,
                SlotId::from_raw(run.slot)
            ));
        }
        if (run.slot, u64::from(run.first)) < end {
            return Err(format!("run {i} overlaps the one before, or is out of order"));
        }
        end = (run.slot, u64::from(run.first) + u64::from(run.npages));
        let placed = match extents.get(run.extent as usize) {
            Some(extent) => u64::from(run.skip) + u64::from(run.npages) <= u64::from(extent.pages),
            None => run.extent == ZERO && run.skip == 0,
        };
        if !placed {
            return Err(format!("run {i} is not within an extent"));
        }
        if run.extent != ZERO {
            hash += u64::from(run.npages);
        }
        runs.push(run);
    }
    if hash != hashes {
        return Err(format!("it has {hashes} hashes for {hash} pages"));
    }
    Ok(runs)
}

/// The number in four bytes; the caller has cut them so.
fn u32_at(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_le_bytes).unwrap_or_default()
}

/// The number in eight bytes; the caller has cut them so.
fn u64_at(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_le_bytes).unwrap_or_default()
}
