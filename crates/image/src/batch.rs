//! Pages on their way from [`put`](crate::Writer::put) to the pack.

use rayon::prelude::*;
use ringmark_dirty::{PageSize, SlotId};

use crate::encode::{Encoding, encode, extent_pages};
use crate::pages;

/// Full extents of a batch: enough for every core to have several.
const EXTENTS: usize = 32;

/// Entries after which a batch that is full of zero pages is sent on.
const MAX_ENTRIES: usize = 1 << 16;

/// Consecutive pages in the order in which they were put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) slot: SlotId,
    pub(crate) first: u64,
    pub(crate) npages: u64,
    pub(crate) zero: bool,
}

/// An extent that was encoded.
#[derive(Debug, Default)]
struct Coded {
    out: Vec<u8>,
    encoding: Option<Encoding>,
}

/// Pages put, then encoded, then written; its memory is used again for later ones.
#[derive(Debug)]
pub(crate) struct Batch {
    page_bytes: usize,
    extent_bytes: usize,
    /// What is not zero, page after page.
    data: Vec<u8>,
    entries: Vec<Entry>,
    hashes: Vec<u64>,
    coded: Vec<Coded>,
}

impl Batch {
    #[allow(clippy::cast_possible_truncation, reason = "a page of an image has at most a megabyte")]
    pub(crate) fn new(page_size: PageSize) -> Self {
        let page_bytes = page_size.bytes() as usize;
        let extent_bytes = page_bytes * usize::from(extent_pages(page_size));
        let coded = (0..EXTENTS).map(|_| Coded::default()).collect();
        Self { page_bytes, extent_bytes, data: Vec::new(), entries: Vec::new(), hashes: Vec::new(), coded }
    }

    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.entries.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes pages from the front of `bytes` until the batch is full; returns how many, and the rest of the bytes.
    pub(crate) fn fill<'b>(&mut self, slot: SlotId, first: u64, bytes: &'b [u8]) -> (u64, &'b [u8]) {
        if self.data.capacity() == 0 {
            self.data.reserve_exact(self.extent_bytes * EXTENTS);
        }
        let mut taken = 0;
        let mut rest = bytes;
        while !self.is_full() {
            let Some((page, behind)) = rest.split_at_checked(self.page_bytes) else { break };
            let zero = pages::is_zero(page);
            if !zero {
                self.data.extend_from_slice(page);
            }
            self.enter(slot, first + taken, 1, zero);
            taken += 1;
            rest = behind;
        }
        (taken, rest)
    }

    /// Takes a run of zero pages.
    pub(crate) fn fill_zero(&mut self, slot: SlotId, first: u64, npages: u64) {
        self.enter(slot, first, npages, true);
    }

    fn enter(&mut self, slot: SlotId, first: u64, npages: u64, zero: bool) {
        match self.entries.last_mut() {
            Some(last) if last.slot == slot && last.zero == zero && last.first + last.npages == first => {
                last.npages += npages;
            }
            _ => self.entries.push(Entry { slot, first, npages, zero }),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.data.len() == self.extent_bytes * EXTENTS || self.entries.len() >= MAX_ENTRIES
    }

    /// Compresses the extents and hashes the pages, on all cores.
    pub(crate) fn encode(&mut self) {
        self.hashes.clear();
        self.hashes.resize(self.data.len() / self.page_bytes, 0);
        let per_extent = self.extent_bytes / self.page_bytes;
        self.data
            .par_chunks(self.extent_bytes)
            .zip(self.hashes.par_chunks_mut(per_extent))
            .zip(&mut self.coded)
            .for_each(|((raw, hashes), coded)| {
                for (page, hash) in raw.chunks_exact(self.page_bytes).zip(hashes) {
                    *hash = pages::hash(page);
                }
                coded.encoding = Some(encode(raw, &mut coded.out));
            });
    }

    /// What was put, in order; the hashes of the pages that are not zero follow the same order.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Of the pages that are not zero, in the order of the entries.
    pub(crate) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The encoded extents: pages, encoding, and the bytes to store.
    pub(crate) fn extents(&self) -> impl Iterator<Item = (usize, Encoding, &[u8])> {
        self.data.chunks(self.extent_bytes).zip(&self.coded).map(|(raw, coded)| {
            let pages = raw.len() / self.page_bytes;
            match coded.encoding {
                Some(Encoding::Zstd) => (pages, Encoding::Zstd, &coded.out[..]),
                _ => (pages, Encoding::Raw, raw),
            }
        })
    }
}
