//! Pages on their way from [`put`](crate::Writer::put) to a pack.

use std::ops::Range;

use rayon::prelude::*;

use super::encode::{encode, extent_pages};
use crate::format::node::{self, Encoding, FANOUT, Hash, Place};
use crate::format::page::Contents;
use crate::{Image, ImageError, Layout};

/// Bytes of pages in a full batch: enough for every core to have several leaves.
const BYTES: usize = 4 << 20;

/// Entries after which a batch of scattered or zero pages is sent on.
const MAX_ITEMS: usize = 1 << 14;

/// Consecutive puts of pages of one leaf, in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) leaf: u64,
    /// Which pages of the leaf.
    pub(crate) pages: u64,
    /// Where their bytes begin.
    at: usize,
}

/// What was put, in order.
#[derive(Debug)]
pub(crate) enum Item {
    Pages(Group),
    /// Pages, counted through, that are zero.
    Zero(Range<u64>),
}

/// What becomes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is what it is in the parent.
    Unchanged,
    Zero,
    Repeated(u64),
    /// It is in the next extent that has room, and has this hash.
    Stored(u64),
}

/// An extent that was encoded.
#[derive(Debug)]
pub(crate) struct Coded {
    /// Which pages of the leaf.
    pub(crate) pages: u64,
    pub(crate) encoding: Encoding,
    pub(crate) hash: Hash,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    /// Of what was put.
    Data(Range<usize>),
    /// Of what the group made of it.
    Out(Range<usize>),
}

/// What a group was encoded to; its memory is used again.
#[derive(Debug, Default)]
struct Output {
    fates: Vec<Fate>,
    extents: Vec<Coded>,
    out: Vec<u8>,
    error: Option<ImageError>,
}

/// Pages put, then encoded, then written; its memory is used again for later ones.
#[derive(Debug)]
pub(crate) struct Batch {
    page_bytes: usize,
    extent_pages: usize,
    data: Vec<u8>,
    items: Vec<Item>,
    outputs: Vec<Output>,
}

impl Batch {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            page_bytes: layout.page_bytes(),
            extent_pages: extent_pages(layout.page_size()).into(),
            data: Vec::new(),
            items: Vec::new(),
            outputs: Vec::new(),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.items.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.data.len() + self.page_bytes > BYTES.max(self.page_bytes) || self.items.len() >= MAX_ITEMS
    }

    /// Takes pages from the front of `bytes`, the first of them number `first`, until the batch is full; returns how
    /// many, and the rest of the bytes.
    pub(crate) fn fill<'b>(&mut self, first: u64, bytes: &'b [u8]) -> (u64, &'b [u8]) {
        if self.data.capacity() == 0 {
            self.data.reserve_exact(BYTES.max(self.page_bytes));
        }
        let (mut number, mut rest) = (first, bytes);
        while !rest.is_empty() && !self.is_full() {
            let in_leaf = number % FANOUT;
            let room = BYTES.max(self.page_bytes) - self.data.len();
            let pages = (FANOUT - in_leaf).min((room.min(rest.len()) / self.page_bytes) as u64);
            let (now, behind) = rest.split_at(usize::try_from(pages).unwrap_or_default() * self.page_bytes);
            self.enter(number / FANOUT, bits(in_leaf, pages));
            self.data.extend_from_slice(now);
            (number, rest) = (number + pages, behind);
        }
        (number - first, rest)
    }

    /// Takes a run of zero pages.
    pub(crate) fn fill_zero(&mut self, pages: Range<u64>) {
        match self.items.last_mut() {
            Some(Item::Zero(last)) if last.end == pages.start => last.end = pages.end,
            _ => self.items.push(Item::Zero(pages)),
        }
    }

    fn enter(&mut self, leaf: u64, pages: u64) {
        match self.items.last_mut() {
            // Behind those that the group has, so that the order of the bytes is that of the pages.
            Some(Item::Pages(group))
                if group.leaf == leaf && pages.trailing_zeros() >= 64 - group.pages.leading_zeros() =>
            {
                group.pages |= pages;
            }
            _ => self.items.push(Item::Pages(Group { leaf, pages, at: self.data.len() })),
        }
    }

    /// Finds out what becomes of every page, and compresses what is to be stored, on all cores.
    pub(crate) fn encode(&mut self, parent: Option<&Image>, seed: u64) -> Result<(), ImageError> {
        let (page_bytes, extent_pages) = (self.page_bytes, self.extent_pages);
        self.outputs.resize_with(self.items.len().max(self.outputs.len()), Output::default);
        let data = &self.data;
        self.items.par_iter().zip(&mut self.outputs).for_each(|(item, output)| {
            if let Item::Pages(group) = item {
                output.error = output.encode(group, data, page_bytes, extent_pages, parent, seed).err();
            }
        });
        match self.outputs.iter_mut().find_map(|o| o.error.take()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// What was put, in order; of groups, what becomes of their pages, and the extents that hold what is stored.
    pub(crate) fn items(&self) -> impl Iterator<Item = (&Item, &[Fate], &[Coded], usize)> {
        self.items.iter().zip(&self.outputs).enumerate().map(|(i, (item, output))| match item {
            Item::Pages(_) => (item, &output.fates[..], &output.extents[..], i),
            Item::Zero(_) => (item, &[][..], &[][..], i),
        })
    }

    /// The bytes to store of an extent of item `item`.
    pub(crate) fn stored(&self, item: usize, extent: &Coded) -> &[u8] {
        match extent.bytes.clone() {
            Bytes::Data(range) => &self.data[range],
            Bytes::Out(range) => &self.outputs[item].out[range],
        }
    }
}

impl Output {
    fn encode(
        &mut self,
        group: &Group,
        data: &[u8],
        page_bytes: usize,
        extent_pages: usize,
        parent: Option<&Image>,
        seed: u64,
    ) -> Result<(), ImageError> {
        self.fates.clear();
        self.extents.clear();
        self.out.clear();
        let before = match parent {
            Some(parent) => parent.tree().leaf(group.leaf)?,
            None => None,
        };
        let numbers = (0u8..64).filter(|i| group.pages >> i & 1 == 1);
        let contents = data[group.at..].chunks_exact(page_bytes);
        // Pages to store, and where their bytes are.
        let mut stored: Vec<(u8, usize)> = Vec::with_capacity(64);
        for (i, (page, bytes)) in numbers.zip(contents).enumerate() {
            let now = Contents::of(bytes, seed);
            let place = before.as_ref().map_or(Place::Zero, |leaf| leaf.place(page));
            let fate = match (now, place) {
                _ if parent.is_some() && is_same(now, &place) => Fate::Unchanged,
                (Contents::Zero, _) => Fate::Zero,
                (Contents::Repeated(word), _) => Fate::Repeated(word),
                (Contents::Hashed(hash), _) => {
                    stored.push((page, group.at + i * page_bytes));
                    Fate::Stored(hash)
                }
            };
            self.fates.push(fate);
        }
        for pages in stored.chunks(extent_pages) {
            self.extent(pages, data, page_bytes);
        }
        Ok(())
    }

    fn extent(&mut self, pages: &[(u8, usize)], data: &[u8], page_bytes: usize) {
        let (first, last) = (pages[0].1, pages[pages.len() - 1].1);
        let bitmap = pages.iter().fold(0u64, |map, (page, _)| map | 1 << page);
        let together = last - first == (pages.len() - 1) * page_bytes;
        let start = self.out.len();
        let (encoding, bytes) = if together {
            let raw = first..last + page_bytes;
            match encode(&data[raw.clone()], &mut self.out) {
                Encoding::Raw => (Encoding::Raw, Bytes::Data(raw)),
                Encoding::Zstd => (Encoding::Zstd, Bytes::Out(start..self.out.len())),
            }
        } else {
            let mut gathered = Vec::with_capacity(pages.len() * page_bytes);
            pages.iter().for_each(|(_, at)| gathered.extend_from_slice(&data[*at..at + page_bytes]));
            let encoding = encode(&gathered, &mut self.out);
            if encoding == Encoding::Raw {
                self.out.extend_from_slice(&gathered);
            }
            (encoding, Bytes::Out(start..self.out.len()))
        };
        let stored = match &bytes {
            Bytes::Data(range) => &data[range.clone()],
            Bytes::Out(range) => &self.out[range.clone()],
        };
        self.extents.push(Coded { pages: bitmap, encoding, hash: node::hash(stored), bytes });
    }
}

/// Whether a page is what it was. Hashes are compared where there are any: two contents of one page share one by chance
/// once in 2^64 times, and not by intent, as the seed is drawn at random and the guest never sees it.
fn is_same(now: Contents, before: &Place) -> bool {
    match (now, before) {
        (Contents::Zero, Place::Zero) => true,
        (Contents::Repeated(word), Place::Repeated(old)) => word == *old,
        (Contents::Hashed(hash), Place::Stored { hash: old, .. }) => hash == *old,
        _ => false,
    }
}

/// `count` bits from `first` on.
fn bits(first: u64, count: u64) -> u64 {
    (u64::MAX >> (64 - count)) << first
}
