//! What the levels of a set have in common, and the lowest of them: a word of 64 pages.

use core::fmt::Debug;
use core::iter;

/// A word of a set: its first page and its non-zero bits.
pub(super) type Word = (u64, u64);

/// A level of a set. Pages are counted from the first that the node covers.
///
/// A node of a set is never empty, except for the root.
pub(super) trait Node: Clone + Debug + Default + Eq {
    /// Binary logarithm of the pages that a node covers.
    const SHIFT: u32;

    /// The words of the node, ascending.
    type Words<'a>: Iterator<Item = Word> + Clone + Debug
    where
        Self: 'a;

    fn is_empty(&self) -> bool;

    /// The word that starts at `page`, a multiple of 64.
    fn word(&self, page: u64) -> u64;

    /// Adds `bits`, not zero, to the word that starts at `page`; which of them were not there.
    fn or_word(&mut self, page: u64, bits: u64) -> u64;

    /// Takes `bits` out of the word that starts at `page`; which of them were there.
    fn clear_word(&mut self, page: u64, bits: u64) -> u64;

    /// Adds the pages from `first` to `last`, both included; how many were not there.
    fn fill(&mut self, first: u64, last: u64) -> u64;

    /// Adds the pages of `other`; how many were not there.
    fn union(&mut self, other: &Self) -> u64;

    /// Takes out the pages of `other`; how many were there.
    fn subtract(&mut self, other: &Self) -> u64;

    /// Takes out the pages that are not in `other`; how many those were.
    fn intersect(&mut self, other: &Self) -> u64;

    /// The words, for a node whose first page is page `base` of the set.
    fn words(&self, base: u64) -> Self::Words<'_>;

    /// How many pages: a walk.
    fn count(&self) -> u64 {
        self.words(0).map(|(_, bits)| u64::from(bits.count_ones())).sum()
    }
}

impl Node for u64 {
    const SHIFT: u32 = 6;

    type Words<'a> = iter::Once<Word>;

    #[inline]
    fn is_empty(&self) -> bool {
        *self == 0
    }

    #[inline]
    fn word(&self, _page: u64) -> u64 {
        *self
    }

    #[inline]
    fn or_word(&mut self, _page: u64, bits: u64) -> u64 {
        let new = bits & !*self;
        *self |= bits;
        new
    }

    #[inline]
    fn clear_word(&mut self, _page: u64, bits: u64) -> u64 {
        let old = bits & *self;
        *self &= !bits;
        old
    }

    #[inline]
    fn fill(&mut self, first: u64, last: u64) -> u64 {
        u64::from(self.or_word(0, u64::MAX >> (63 - (last - first)) << first).count_ones())
    }

    #[inline]
    fn union(&mut self, other: &Self) -> u64 {
        u64::from(self.or_word(0, *other).count_ones())
    }

    #[inline]
    fn subtract(&mut self, other: &Self) -> u64 {
        u64::from(self.clear_word(0, *other).count_ones())
    }

    #[inline]
    fn intersect(&mut self, other: &Self) -> u64 {
        u64::from(self.clear_word(0, !*other).count_ones())
    }

    #[inline]
    fn words(&self, base: u64) -> Self::Words<'_> {
        iter::once((base, *self))
    }
}
