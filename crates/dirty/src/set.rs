//! A set of pages whose costs follow the pages in it, not the memory they come from.

mod iter;
mod node;
mod sparse;

use core::fmt;
use core::ops::Range;

pub use iter::{Pages, Runs};
use node::Node;
use sparse::Sparse;

/// Five levels of 64 over words of 64 pages.
type Root = Sparse<Sparse<Sparse<Sparse<Sparse<u64>>>>>;

/// The dirty pages of one memslot: a set of page offsets below [`npages`](Self::npages).
///
/// Words of 64 pages under levels of 64 places each, where only occupied places exist. So every operation costs in
/// the order of the pages in the set (or in the two sets), memory too, and the size of the slot does not enter: an
/// empty set of a terabyte is a few words, and walking a thousand pages of it takes microseconds. Where pages lie
/// together they share words, and the set costs little more than a bitmap of them.
///
/// The number of pages is kept, so [`len`](Self::len) costs nothing, and [`take`](Self::take) moves the set away
/// without touching it.
///
/// # Panics
/// Methods that are given a page or range past [`npages`](Self::npages), or another set of different `npages`, panic:
/// offsets are checked where they enter, against a memslot (see [`DirtyPages::insert`](crate::DirtyPages::insert)).
#[derive(Clone, PartialEq, Eq)]
pub struct DirtySet {
    npages: u64,
    len: u64,
    root: Root,
}

impl DirtySet {
    /// The most pages a set can be made for: 2³⁶, well past what a memslot can have.
    pub const MAX_PAGES: u64 = 1 << Root::SHIFT;

    /// An empty set of a slot of `npages` pages.
    ///
    /// # Panics
    /// If `npages` is above [`MAX_PAGES`](Self::MAX_PAGES).
    #[must_use]
    pub fn new(npages: u64) -> Self {
        assert!(
            npages <= Self::MAX_PAGES,
            "a set of {npages} pages; at most {} are possible",
            Self::MAX_PAGES
        );
        Self { npages, len: 0, root: Root::default() }
    }

    /// How many pages the slot has, dirty or not.
    #[must_use]
    pub fn npages(&self) -> u64 {
        self.npages
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `page` is in the set; a page past the end is not.
    #[must_use]
    #[inline]
    pub fn contains(&self, page: u64) -> bool {
        page < self.npages && self.root.word(page) >> (page % 64) & 1 != 0
    }

    /// Adds `page`; whether it was not there.
    #[inline]
    pub fn insert(&mut self, page: u64) -> bool {
        assert!(page < self.npages, "page {page} of a slot of {} pages", self.npages);
        let new = self.root.or_word(page, 1 << (page % 64)) != 0;
        self.len += u64::from(new);
        new
    }

    /// Adds the pages of `range`; how many were not there.
    pub fn insert_range(&mut self, range: Range<u64>) -> u64 {
        assert!(range.end <= self.npages, "pages to {} of a slot of {} pages", range.end, self.npages);
        if range.is_empty() {
            return 0;
        }
        let new = self.root.fill(range.start, range.end - 1);
        self.len += new;
        new
    }

    /// Adds the pages of a bitmap that starts at `first_page`, a multiple of 64; how many were not there.
    ///
    /// Bits past the end of the slot are passed over, as `KVM_CLEAR_DIRTY_LOG` does with them: the kernel hands out
    /// whole words and leaves these bits 0.
    pub fn insert_words(&mut self, first_page: u64, words: &[u64]) -> u64 {
        assert!(
            first_page.is_multiple_of(64),
            "a bitmap from page {first_page}; it must start at a multiple of 64"
        );
        let before = self.len;
        for (page, &word) in (first_page..self.npages).step_by(64).zip(words) {
            let valid = u64::MAX >> 64u64.saturating_sub(self.npages - page);
            if word & valid != 0 {
                self.len += u64::from(self.root.or_word(page, word & valid).count_ones());
            }
        }
        self.len - before
    }

    /// Takes `page` out; whether it was there.
    pub fn remove(&mut self, page: u64) -> bool {
        assert!(page < self.npages, "page {page} of a slot of {} pages", self.npages);
        let removed = self.root.clear_word(page, 1 << (page % 64)) != 0;
        self.len -= u64::from(removed);
        removed
    }

    /// Adds the pages of `other`; how many were not there.
    pub fn union_with(&mut self, other: &Self) -> u64 {
        self.assert_same_slot(other);
        let new = self.root.union(&other.root);
        self.len += new;
        new
    }

    /// Takes out the pages of `other`; how many were there.
    pub fn subtract(&mut self, other: &Self) -> u64 {
        self.assert_same_slot(other);
        let removed = self.root.subtract(&other.root);
        self.len -= removed;
        removed
    }

    /// Takes out the pages that are not in `other`; how many those were.
    pub fn intersect(&mut self, other: &Self) -> u64 {
        self.assert_same_slot(other);
        let removed = self.root.intersect(&other.root);
        self.len -= removed;
        removed
    }

    /// Moves the pages out and leaves the set empty. Costs nothing.
    #[must_use = "the pages are only in the set that is returned"]
    pub fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new(self.npages))
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        *self = Self::new(self.npages);
    }

    /// The pages, ascending.
    pub fn iter(&self) -> Pages<'_> {
        Pages::new(self.root.words(0), self.len)
    }

    /// The pages as ranges, ascending; no two of them touch.
    pub fn runs(&self) -> Runs<'_> {
        Runs::new(self.root.words(0))
    }

    /// Two sets of different length are of different slots, and a merge that stops at the shorter one loses pages.
    fn assert_same_slot(&self, other: &Self) {
        assert!(self.npages == other.npages, "sets of slots of {} and {} pages", self.npages, other.npages);
    }
}

impl<'a> IntoIterator for &'a DirtySet {
    type Item = u64;
    type IntoIter = Pages<'a>;

    fn into_iter(self) -> Pages<'a> {
        self.iter()
    }
}

impl fmt::Debug for DirtySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirtySet({} of {} pages)", self.len, self.npages)
    }
}
