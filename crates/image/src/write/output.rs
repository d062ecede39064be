//! What becomes of the pages of a group of puts.

use super::batch::Group;
use super::encode::encode;
use super::upkeep::{Prospect, Upkeep};
use crate::format::node::{self, Encoding, Extent, FANOUT, Hash, Leaf, Place};
use crate::format::page::Contents;
use crate::{Image, ImageError};

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

impl Coded {
    /// Bytes of what is to be stored.
    pub(crate) const fn len(&self) -> usize {
        match self.bytes {
            Bytes::Put(from, to) | Bytes::Made(from, to) => to - from,
        }
    }
}

/// From where to where.
#[derive(Clone, Copy, Debug)]
enum Bytes {
    /// Of what was put.
    Put(usize, usize),
    /// Of what the group made of it.
    Made(usize, usize),
}

/// A page of the parent that is stored again beside those that were put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathered {
    pub(crate) page: u8,
    pub(crate) hash: u64,
    /// Where its bytes are, among those of all pages that were gathered for the batch.
    pub(super) at: usize,
}

/// A page to store, and where its bytes are.
type Source = (u8, Origin);

#[derive(Clone, Copy, Debug)]
enum Origin {
    Put(usize),
    Gathered(usize),
}

/// What all groups of a batch have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub(super) page_bytes: usize,
    /// Pages of a full extent.
    pub(super) extent_pages: usize,
    pub(super) parent: Option<&'a Image>,
    pub(super) seed: u64,
    pub(super) upkeep: &'a Upkeep,
}

/// What a group was encoded to; its memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) fates: Vec<Fate>,
    pub(crate) extents: Vec<Coded>,
    pub(crate) gathered: Vec<Gathered>,
    /// The leaf in the parent, if pages of it are gathered.
    pub(super) leaf: Option<Leaf>,
    /// What becomes of each group of pages, by the number of its first.
    pub(super) prospects: Vec<(u64, Prospect)>,
    sources: Vec<Source>,
    out: Vec<u8>,
    pub(super) error: Option<ImageError>,
}

impl Output {
    /// Finds out what becomes of every page, and which pages of the parent are to be stored again.
    pub(super) fn look(
        &mut self,
        group: &Group,
        data: &[u8],
        setting: &Setting<'_>,
    ) -> Result<(), ImageError> {
        self.fates.clear();
        self.extents.clear();
        self.gathered.clear();
        self.prospects.clear();
        self.sources.clear();
        self.out.clear();
        self.leaf = None;
        let before = match setting.parent {
            Some(parent) => parent.tree().leaf(group.leaf)?,
            None => None,
        };
        let old = before.as_ref().map_or([Place::Zero; 64], Leaf::places);
        let mut new = [None; 64];
        let numbers = (0u8..64).filter(|i| group.pages >> i & 1 == 1);
        let contents = data[group.at..].chunks_exact(setting.page_bytes);
        for (i, (page, bytes)) in numbers.zip(contents).enumerate() {
            let now = Contents::of(bytes, setting.seed);
            let place = &old[usize::from(page)];
            let fate = match now {
                _ if setting.parent.is_some() && is_same(now, place) => Fate::Unchanged,
                Contents::Zero => Fate::Zero,
                Contents::Repeated(word) => Fate::Repeated(word),
                Contents::Hashed(hash) => {
                    self.sources.push((page, Origin::Put(group.at + i * setting.page_bytes)));
                    Fate::Stored(hash)
                }
            };
            self.fates.push(fate);
            new[usize::from(page)] = Some(fate);
        }
        if setting.parent.is_some() {
            self.foresee(group.leaf, &old, &new, setting);
            if !self.gathered.is_empty() {
                self.leaf = before;
            }
        }
        Ok(())
    }

    /// Compares what a restore has to decode before and after, and chooses what is stored anew as a whole.
    fn foresee(&mut self, leaf: u64, old: &[Place; 64], new: &[Option<Fate>; 64], setting: &Setting<'_>) {
        let size = setting.extent_pages;
        for (first, (old, new)) in (0usize..).step_by(size).zip(old.chunks(size).zip(new.chunks(size))) {
            if new.iter().all(|fate| matches!(fate, None | Some(Fate::Unchanged))) {
                continue;
            }
            let stored = new.iter().filter(|fate| matches!(fate, Some(Fate::Stored(_)))).count();
            let places: Vec<Option<Place>> =
                new.iter().map(|fate| fate.and_then(|f| place(f, stored))).collect();
            let prospect = Prospect::of(old, &places, size);
            let number = leaf * FANOUT + first as u64;
            self.prospects.push((number, prospect));
            if stored == 0 || !setting.upkeep.is_due() || !setting.upkeep.wants(number, &prospect) {
                continue;
            }
            for (page, (old, new)) in (first..).zip(old.iter().zip(&places)) {
                if let (Place::Stored { hash, .. }, None, Ok(page)) = (old, new, u8::try_from(page)) {
                    self.gathered.push(Gathered { page, hash: *hash, at: 0 });
                }
            }
        }
    }

    /// Whether the group of pages from number `first` on is stored anew.
    pub(super) fn is_whole(&self, first: u64, size: usize) -> bool {
        let range = first % FANOUT..first % FANOUT + size as u64;
        self.gathered.iter().any(|g| range.contains(&g.page.into()))
    }

    /// Encodes what is to be stored: full extents lie where those of every other image do, so that one that replaces
    /// another leaves nothing of it behind.
    pub(super) fn pack(&mut self, data: &[u8], gathered: &[u8], setting: &Setting<'_>) {
        let mut sources = std::mem::take(&mut self.sources);
        sources.extend(self.gathered.iter().map(|g| (g.page, Origin::Gathered(g.at))));
        sources.sort_unstable_by_key(|(page, _)| *page);
        let group = |source: &Source| usize::from(source.0) / setting.extent_pages;
        for pages in sources.chunk_by(|a, b| group(a) == group(b)) {
            self.extent(pages, data, gathered, setting.page_bytes);
        }
        self.sources = sources;
    }

    fn extent(&mut self, pages: &[Source], data: &[u8], gathered: &[u8], page_bytes: usize) {
        let bitmap = pages.iter().fold(0u64, |map, (page, _)| map | 1 << page);
        let start = self.out.len();
        let (encoding, bytes) = if let Some(raw) = together(pages, page_bytes) {
            match encode(&data[raw.0..raw.1], &mut self.out) {
                Encoding::Raw => (Encoding::Raw, Bytes::Put(raw.0, raw.1)),
                Encoding::Zstd => (Encoding::Zstd, Bytes::Made(start, self.out.len())),
            }
        } else {
            let mut joined = Vec::with_capacity(pages.len() * page_bytes);
            for (_, origin) in pages {
                joined.extend_from_slice(match *origin {
                    Origin::Put(at) => &data[at..at + page_bytes],
                    Origin::Gathered(at) => &gathered[at..at + page_bytes],
                });
            }
            let encoding = encode(&joined, &mut self.out);
            if encoding == Encoding::Raw {
                self.out.extend_from_slice(&joined);
            }
            (encoding, Bytes::Made(start, self.out.len()))
        };
        let hash = node::hash(self.bytes(bytes, data));
        self.extents.push(Coded { pages: bitmap, encoding, hash, bytes });
    }

    fn bytes<'a>(&'a self, bytes: Bytes, data: &'a [u8]) -> &'a [u8] {
        match bytes {
            Bytes::Put(from, to) => &data[from..to],
            Bytes::Made(from, to) => &self.out[from..to],
        }
    }
}

/// The bytes to store of `outputs`, in order, in as few pieces as they lie in; `data` is what was put.
pub(super) fn stretches<'a, E>(
    outputs: impl Iterator<Item = &'a Output>,
    data: &'a [u8],
    mut f: impl FnMut(&'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending: Option<(&Output, Bytes)> = None;
    for output in outputs {
        for extent in &output.extents {
            pending = Some(match (pending, extent.bytes) {
                (Some((_, Bytes::Put(from, end))), Bytes::Put(start, to)) if end == start => {
                    (output, Bytes::Put(from, to))
                }
                (Some((of, Bytes::Made(from, end))), Bytes::Made(start, to))
                    if end == start && std::ptr::eq(of, output) =>
                {
                    (output, Bytes::Made(from, to))
                }
                (before, next) => {
                    before.map_or(Ok(()), |(of, bytes)| f(of.bytes(bytes, data)))?;
                    (output, next)
                }
            });
        }
    }
    pending.map_or(Ok(()), |(of, bytes)| f(of.bytes(bytes, data)))
}

/// The stretch of what was put that `pages` are, if they are one.
fn together(pages: &[Source], page_bytes: usize) -> Option<(usize, usize)> {
    let at = |source: &Source| match source.1 {
        Origin::Put(at) => Some(at),
        Origin::Gathered(_) => None,
    };
    let first = at(pages.first()?)?;
    let side_by_side = pages.iter().enumerate().all(|(i, page)| at(page) == Some(first + i * page_bytes));
    side_by_side.then_some((first, first + pages.len() * page_bytes))
}

/// Where a page is that becomes `fate`, of `stored` that are stored together; `None` if it stays where it is.
fn place(fate: Fate, stored: usize) -> Option<Place> {
    match fate {
        Fate::Unchanged => None,
        Fate::Zero => Some(Place::Zero),
        Fate::Repeated(word) => Some(Place::Repeated(word)),
        Fate::Stored(hash) => {
            let pages = u8::try_from(stored).unwrap_or(u8::MAX);
            // No pack has this number.
            let (pack, offset, len, encoding) = (u32::MAX, 0, 1, Encoding::Raw);
            let extent = Extent { pack, offset, len, pages, encoding, hash: Hash::default() };
            Some(Place::Stored { extent, skip: 0, hash })
        }
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
