//! The upper levels of a set: 64 places, of which only the occupied ones take memory.

use alloc::vec::Vec;
use core::slice;

use super::node::{Node, Word};

/// Up to 64 nodes of the level below, those that are not empty, in order; `mask` says which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sparse<T> {
    mask: u64,
    nodes: Vec<T>,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self { mask: 0, nodes: Vec::new() }
    }
}

impl<T: Node> Sparse<T> {
    /// Where the node of `place` is or would be.
    #[inline]
    fn index(&self, place: u32) -> usize {
        let below = (1u64 << place) - 1;
        // Memory is mostly dirtied from some page on without holes at this level, and counting bits takes a dozen
        // instructions where the target has none for it.
        if self.mask & below == below { place as usize } else { (self.mask & below).count_ones() as usize }
    }

    #[inline]
    fn has(&self, place: u32) -> bool {
        self.mask >> place & 1 != 0
    }

    /// The node of `place`, made if it is not there; the caller puts something into it.
    #[inline]
    fn node_mut(&mut self, place: u32) -> &mut T {
        let index = self.index(place);
        if !self.has(place) {
            self.mask |= 1 << place;
            self.nodes.insert(index, T::default());
        }
        &mut self.nodes[index]
    }

    /// The place that holds `page`, and the page within it.
    #[inline]
    fn split(page: u64) -> (u32, u64) {
        ((page >> T::SHIFT & 63) as u32, page & ((1 << T::SHIFT) - 1))
    }

    /// Calls `keep` with every node and its place; those that are empty afterwards go.
    fn retain(&mut self, mut keep: impl FnMut(&mut T, u32) -> u64) -> u64 {
        let (mut left, mut mask, mut sum) = (self.mask, self.mask, 0);
        self.nodes.retain_mut(|node| {
            let place = left.trailing_zeros();
            left &= left - 1;
            sum += keep(node, place);
            let stays = !node.is_empty();
            if !stays {
                mask &= !(1 << place);
            }
            stays
        });
        self.mask = mask;
        sum
    }
}

impl<T: Node> Node for Sparse<T> {
    const SHIFT: u32 = T::SHIFT + 6;

    type Words<'a>
        = Words<'a, T>
    where
        T: 'a;

    #[inline]
    fn is_empty(&self) -> bool {
        self.mask == 0
    }

    #[inline]
    fn word(&self, page: u64) -> u64 {
        let (place, page) = Self::split(page);
        if self.has(place) { self.nodes[self.index(place)].word(page) } else { 0 }
    }

    #[inline]
    fn or_word(&mut self, page: u64, bits: u64) -> u64 {
        let (place, page) = Self::split(page);
        self.node_mut(place).or_word(page, bits)
    }

    fn clear_word(&mut self, page: u64, bits: u64) -> u64 {
        let (place, page) = Self::split(page);
        if !self.has(place) {
            return 0;
        }
        let index = self.index(place);
        let cleared = self.nodes[index].clear_word(page, bits);
        if self.nodes[index].is_empty() {
            self.nodes.remove(index);
            self.mask &= !(1 << place);
        }
        cleared
    }

    fn fill(&mut self, first: u64, last: u64) -> u64 {
        let ((first_place, first), (last_place, last)) = (Self::split(first), Self::split(last));
        let end = (1 << T::SHIFT) - 1;
        (first_place..=last_place)
            .map(|place| {
                let from = if place == first_place { first } else { 0 };
                let to = if place == last_place { last } else { end };
                self.node_mut(place).fill(from, to)
            })
            .sum()
    }

    fn union(&mut self, other: &Self) -> u64 {
        let mut sum = 0;
        let mask = self.mask | other.mask;
        if mask == self.mask {
            let mut left = other.mask;
            for theirs in &other.nodes {
                let index = self.index(left.trailing_zeros());
                left &= left - 1;
                sum += self.nodes[index].union(theirs);
            }
            return sum;
        }
        let mut ours = core::mem::take(&mut self.nodes).into_iter();
        let mut theirs = other.nodes.iter();
        self.nodes.reserve_exact(mask.count_ones() as usize);
        for place in (0..64).filter(|place| mask >> place & 1 != 0) {
            let mine = if self.has(place) { ours.next() } else { None };
            let node = match (mine, if other.has(place) { theirs.next() } else { None }) {
                (Some(mut node), Some(theirs)) => {
                    sum += node.union(theirs);
                    node
                }
                (Some(node), None) => node,
                (None, Some(theirs)) => {
                    sum += theirs.count();
                    theirs.clone()
                }
                (None, None) => continue,
            };
            self.nodes.push(node);
        }
        self.mask = mask;
        sum
    }

    fn subtract(&mut self, other: &Self) -> u64 {
        self.retain(
            |node, place| {
                if other.has(place) { node.subtract(&other.nodes[other.index(place)]) } else { 0 }
            },
        )
    }

    fn intersect(&mut self, other: &Self) -> u64 {
        self.retain(|node, place| {
            if other.has(place) {
                node.intersect(&other.nodes[other.index(place)])
            } else {
                let gone = node.count();
                *node = T::default();
                gone
            }
        })
    }

    fn words(&self, base: u64) -> Words<'_, T> {
        Words { left: self.mask, nodes: self.nodes.iter(), base, node: None }
    }
}

/// The words of a level: those of its nodes, one after another.
#[derive(Clone, Debug)]
pub(super) struct Words<'a, T: Node> {
    left: u64,
    nodes: slice::Iter<'a, T>,
    base: u64,
    node: Option<T::Words<'a>>,
}

impl<T: Node> Iterator for Words<'_, T> {
    type Item = Word;

    #[inline]
    fn next(&mut self) -> Option<Word> {
        loop {
            if let Some(word) = self.node.as_mut().and_then(Iterator::next) {
                return Some(word);
            }
            let node = self.nodes.next()?;
            let place = u64::from(self.left.trailing_zeros());
            self.left &= self.left - 1;
            self.node = Some(node.words(self.base | place << T::SHIFT));
        }
    }
}
