//! Walks over a set: pages, and runs of pages.

use core::iter::FusedIterator;
use core::ops::Range;

use super::Root;
use super::node::Node;

type Words<'a> = <Root as Node>::Words<'a>;

/// The pages of a [`DirtySet`](crate::DirtySet), ascending.
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    words: Words<'a>,
    base: u64,
    bits: u64,
    left: u64,
}

impl<'a> Pages<'a> {
    pub(super) fn new(words: Words<'a>, len: u64) -> Self {
        Self { words, base: 0, bits: 0, left: len }
    }
}

impl Iterator for Pages<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.bits == 0 {
            (self.base, self.bits) = self.words.next()?;
        }
        let page = self.base + u64::from(self.bits.trailing_zeros());
        self.bits &= self.bits - 1;
        self.left -= 1;
        Some(page)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left);
        (left.unwrap_or(usize::MAX), left.ok())
    }
}

impl FusedIterator for Pages<'_> {}

/// The pages of a [`DirtySet`](crate::DirtySet) as ranges, ascending, as long as they can be.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    words: Words<'a>,
    base: u64,
    bits: u64,
}

impl<'a> Runs<'a> {
    pub(super) fn new(words: Words<'a>) -> Self {
        Self { words, base: 0, bits: 0 }
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<u64>;

    #[inline]
    fn next(&mut self) -> Option<Range<u64>> {
        if self.bits == 0 {
            (self.base, self.bits) = self.words.next()?;
        }
        let first = self.bits.trailing_zeros();
        let start = self.base + u64::from(first);
        let mut from = first;
        loop {
            let end = from + (!(self.bits >> from)).trailing_zeros();
            if end < 64 {
                self.bits &= u64::MAX << end;
                return Some(start..self.base + u64::from(end));
            }
            let next = self.base + 64;
            (self.base, self.bits) = self.words.next().unwrap_or((next, 0));
            if self.base != next || self.bits & 1 == 0 {
                return Some(start..next);
            }
            from = 0;
        }
    }
}

impl FusedIterator for Runs<'_> {}
