//! One image, open.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ringmark_dirty::{DirtyPages, SlotId};

use super::changes;
use super::extent::Checker;
use super::packs::Packs;
use super::restore::{self, Restored};
use super::tree::Tree;
use super::verify::{Verified, Verifier};
use crate::format::header::damaged;
use crate::format::meta::{Digest, Meta};
use crate::format::node::{Encoding, FANOUT, Leaf, Place, RunKind};
use crate::format::page;
use crate::store::Entry;
use crate::{ImageError, ImageId, Layout, RestoreError, Store, Summary};

thread_local! {
    /// An extent as it is stored, and decoded.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// What the contents of a page cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// All bytes are zero: nothing.
    Zero,
    /// One word of eight bytes again and again: that word.
    Repeated,
    /// A place in a pack.
    Stored,
}

/// An image of a store, open for reading. Clones are cheap and are the same image; any number of threads may read it.
#[derive(Clone, Debug)]
pub struct Image {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    summary: Summary,
    meta: Meta,
    tree: Tree,
}

impl Image {
    pub(crate) fn open(store: &Store, entry: &Entry) -> Result<Self, ImageError> {
        let (meta, len) = store.meta(entry)?;
        let keys: Vec<String> = meta.packs.iter().map(|p| p.key()).collect();
        let sizes = store.backend().sizes(&keys).map_err(|e| store.io_error("packs", e))?;
        for (pack, size) in meta.packs.iter().zip(sizes) {
            match size {
                Some(size) if size == pack.len => {}
                Some(size) => {
                    let what = format!("it has {size} bytes instead of {}", pack.len);
                    return Err(damaged(&store.name(&pack.key()), what));
                }
                None => {
                    return Err(ImageError::MissingLayer {
                        image: entry.id,
                        layer: pack.key(),
                        store: store.location().to_owned(),
                    });
                }
            }
        }
        let packs = Packs::new(store.clone(), meta.packs.clone());
        let tree = Tree::new(store.clone(), packs, meta.root, &meta.layout);
        let summary = Summary::of(&meta, entry.id, len);
        Ok(Self { inner: Arc::new(Inner { summary, meta, tree }) })
    }

    /// The image's identity.
    #[must_use]
    pub fn id(&self) -> ImageId {
        self.inner.summary.id
    }

    /// What a listing says of it.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.inner.summary
    }

    /// The memory layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.inner.meta.layout
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.inner.meta
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.inner.tree
    }

    pub(crate) fn checker(&self) -> Checker<'_> {
        Checker { tree: self.tree(), layout: self.layout(), seed: self.meta().seed }
    }

    /// The names of the parts of the machine state, in order.
    pub fn state_names(&self) -> impl Iterator<Item = &str> {
        self.meta().states.iter().map(|s| s.name.as_str())
    }

    /// A part of the machine state, after its hash was found right.
    ///
    /// # Errors
    /// No such part, or damage.
    pub fn state(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let found = self.meta().states.binary_search_by(|s| s.name.as_str().cmp(name));
        let Some(state) = found.ok().map(|i| &self.meta().states[i]) else {
            return Err(ImageError::NoSuchState { id: self.id(), name: name.to_owned() });
        };
        let object = || format!("the machine state {name:?} in {}", self.tree().packs.name_of(state.pack));
        let len = usize::try_from(state.len).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(len).is_err() {
            return Err(damaged(&object(), format!("{len} bytes do not fit into memory")));
        }
        bytes.resize(len, 0);
        if !bytes.is_empty() {
            self.tree().packs.read(state.pack, state.offset, &mut bytes)?;
        }
        if Digest::of(&bytes) != state.blake3 {
            return Err(damaged(&object(), "its BLAKE3 is not the one that the metadata records".to_owned()));
        }
        Ok(bytes)
    }

    fn no_such_page(&self, slot: SlotId, offset: u64) -> ImageError {
        ImageError::NoSuchPage { id: self.id(), slot, offset }
    }

    /// The leaf of a page, and the page's number in the leaf.
    fn leaf_of(&self, slot: SlotId, offset: u64) -> Result<(u64, Option<Leaf>, u8), ImageError> {
        let number = self.layout().number(slot, offset, 1).ok_or_else(|| self.no_such_page(slot, offset))?;
        let leaf = self.tree().leaf(number / FANOUT)?;
        Ok((number, leaf, u8::try_from(number % FANOUT).unwrap_or_default()))
    }

    /// Reads one page into `buf`, which has its size, and checks its hash. Takes as many steps as the index has levels,
    /// however long the chain, and may be called by any number of threads.
    ///
    /// # Errors
    /// A page that the layout does not have, or damage.
    pub fn page(&self, slot: SlotId, offset: u64, buf: &mut [u8]) -> Result<PageKind, ImageError> {
        if buf.len() != self.layout().page_bytes() {
            return Err(self.no_such_page(slot, offset));
        }
        let (number, leaf, in_leaf) = self.leaf_of(slot, offset)?;
        match leaf.map_or(Place::Zero, |leaf| leaf.place(in_leaf)) {
            Place::Zero => {
                buf.fill(0);
                Ok(PageKind::Zero)
            }
            Place::Repeated(word) => {
                page::repeat(buf, word);
                Ok(PageKind::Repeated)
            }
            Place::Stored { extent, skip, hash } => {
                let at = usize::from(skip) * buf.len();
                if extent.encoding == Encoding::Raw {
                    self.tree().packs.read(extent.pack, extent.offset + at as u64, buf)?;
                } else {
                    SCRATCH.with_borrow_mut(|(stored, raw)| {
                        stored.resize(extent.len as usize, 0);
                        raw.resize(usize::from(extent.pages) * buf.len(), 0);
                        self.tree().packs.read(extent.pack, extent.offset, stored)?;
                        self.checker().decode(&extent, stored, raw)?;
                        buf.copy_from_slice(&raw[at..at + buf.len()]);
                        Ok::<_, ImageError>(())
                    })?;
                }
                self.checker().check_page(number, &extent, buf, hash)?;
                Ok(PageKind::Stored)
            }
        }
    }

    /// Hands a page to `sink`, and with it the others that come for free because they are decoded together, as
    /// `(memslot, first page, bytes of whole pages)`. Of a zero page nothing is handed over.
    ///
    /// # Errors
    /// As [`page`](Self::page), or the sink's refusal.
    pub fn extent<E: Send>(
        &self,
        slot: SlotId,
        offset: u64,
        sink: impl Fn(SlotId, u64, &[u8]) -> Result<(), E> + Sync,
    ) -> Result<PageKind, RestoreError<E>> {
        let (number, leaf, in_leaf) = self.leaf_of(slot, offset)?;
        let Some(leaf) = leaf else { return Ok(PageKind::Zero) };
        let first = number - u64::from(in_leaf);
        let found = |run: &crate::format::node::Run| (run.first..run.first + run.pages).contains(&in_leaf);
        let Some(hit) = leaf.runs().find(found) else { return Ok(PageKind::Zero) };
        let RunKind::Stored { extent, .. } = hit.kind else {
            restore::run(self, vec![(first, leaf.clone(), hit)], &sink)?;
            return Ok(PageKind::Repeated);
        };
        let same = |run: &crate::format::node::Run| match run.kind {
            RunKind::Stored { extent: other, .. } => other == extent,
            RunKind::Repeated => false,
        };
        let together: Vec<_> = leaf.runs().filter(same).map(|run| (first, leaf.clone(), run)).collect();
        restore::run(self, together, &sink)?;
        Ok(PageKind::Stored)
    }

    /// Hands every page that is not zero to `sink`, as `(memslot, first page, bytes of whole pages)`. Every page comes
    /// once, after its hash was found right, from several threads at once, and in the order of the packs rather than
    /// that of the memory.
    ///
    /// Zero pages are skipped: the memory that is restored into has to be fresh. A few megabytes a thread are under way.
    ///
    /// # Errors
    /// Damage, or the first refusal of the sink. The sink has received some of the pages then.
    pub fn restore<E: Send>(
        &self,
        sink: impl Fn(SlotId, u64, &[u8]) -> Result<(), E> + Sync,
    ) -> Result<Restored, RestoreError<E>> {
        super::verify::frames(self)?;
        let all = 0..self.layout().pages();
        restore::restore(self, std::slice::from_ref(&all), &sink)
    }

    /// As [`restore`](Self::restore), of the pages in `pages` only.
    ///
    /// # Errors
    /// As [`restore`](Self::restore); pages that the layout does not have are an error before the first is loaded.
    pub fn load<E: Send>(
        &self,
        pages: &DirtyPages,
        sink: impl Fn(SlotId, u64, &[u8]) -> Result<(), E> + Sync,
    ) -> Result<Restored, RestoreError<E>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (slot, run) in pages.runs() {
            let first = self.layout().number(slot, run.start, run.end - run.start);
            let first = first.ok_or_else(|| self.no_such_page(slot, run.start))?;
            ranges.push(first..first + (run.end - run.start));
        }
        ranges.sort_unstable_by_key(|r| r.start);
        restore::restore(self, &ranges, &sink)
    }

    /// Reads consecutive pages, the first of them `first` pages into `slot`, in the order of the memory.
    ///
    /// # Errors
    /// Pages that the layout does not have, or damage.
    pub fn read(&self, slot: SlotId, first: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let page = self.layout().page_bytes();
        let pages = (buf.len() / page) as u64;
        let number = self.layout().number(slot, first, pages).filter(|_| buf.len().is_multiple_of(page));
        let number = number.ok_or_else(|| self.no_such_page(slot, first))?;
        buf.fill(0);
        let whole = Mutex::new(buf);
        let sink = |_: SlotId, offset: u64, bytes: &[u8]| {
            let at = usize::try_from(offset - first).unwrap_or(usize::MAX) * page;
            let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
            whole[at..at + bytes.len()].copy_from_slice(bytes);
            Ok::<_, std::convert::Infallible>(())
        };
        match restore::restore(self, std::slice::from_ref(&(number..number + pages)), &sink) {
            Ok(_) => Ok(()),
            Err(RestoreError::Image(error)) => Err(error),
            Err(RestoreError::Sink { source, .. }) => match source {},
        }
    }

    /// The pages whose contents differ between this image and `other`, of whatever machine and store, as long as their
    /// layouts are the same. Costs what differs where one is descended from the other.
    ///
    /// # Errors
    /// Another layout, or damage.
    pub fn changes(&self, other: &Self) -> Result<DirtyPages, ImageError> {
        changes::between(self, other)
    }

    /// Checks the image: that its packs are there, and its index; `deep` every byte of its packs and the hash of every
    /// page.
    ///
    /// # Errors
    /// The first damage.
    pub fn verify(&self, deep: bool) -> Result<Verified, ImageError> {
        Verifier::new(deep).check(self)
    }
}
