//! The dirty pages of a whole guest: a set for every memslot.

use alloc::vec::Vec;
use core::ops::Range;

use crate::mutant::{self, Mutant};
use crate::{DirtySet, SlotId, SlotTable};

/// A [`DirtySet`] for every memslot of a table.
///
/// # Panics
/// Methods that take another `DirtyPages` panic if it was not made for the same slots: pages of one would be missing
/// in the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyPages {
    /// In the order of the names.
    sets: Vec<(SlotId, DirtySet)>,
}

/// A page that is in no memslot of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    /// The table has no such slot.
    #[error("memslot {0} is not tracked: it was added after tracking began, or deleted")]
    UnknownSlot(SlotId),
    /// The slot has fewer pages.
    #[error("page {offset} lies past the end of memslot {slot}, which has {npages} pages")]
    PastEnd {
        /// The memslot.
        slot: SlotId,
        /// The page asked for.
        offset: u64,
        /// How many pages the memslot has.
        npages: u64,
    },
}

impl DirtyPages {
    /// Nothing dirty, for the memslots of `slots`.
    #[must_use]
    pub fn new(slots: &SlotTable) -> Self {
        Self { sets: slots.iter().map(|slot| (slot.id, DirtySet::new(slot.npages))).collect() }
    }

    /// Adds the page `offset` pages into `slot`; whether it was not there.
    ///
    /// # Errors
    /// If the table has no such page.
    pub fn insert(&mut self, slot: SlotId, offset: u64) -> Result<bool, OutOfRange> {
        let set = self.slot_mut(slot).ok_or(OutOfRange::UnknownSlot(slot))?;
        let npages = set.npages();
        if offset >= npages {
            return Err(OutOfRange::PastEnd { slot, offset, npages });
        }
        Ok(set.insert(offset))
    }

    /// Adds every page of `slot`; how many were not there.
    ///
    /// # Errors
    /// If the table has no such slot.
    pub fn insert_slot(&mut self, slot: SlotId) -> Result<u64, OutOfRange> {
        let set = self.slot_mut(slot).ok_or(OutOfRange::UnknownSlot(slot))?;
        Ok(set.insert_range(0..set.npages()))
    }

    /// Adds every page of every slot: what is left to say when a source has lost track.
    pub fn insert_all(&mut self) {
        for (_, set) in &mut self.sets {
            set.insert_range(0..set.npages());
        }
    }

    /// The pages of `slot`.
    #[must_use]
    pub fn slot(&self, slot: SlotId) -> Option<&DirtySet> {
        self.position(slot).map(|i| &self.sets[i].1)
    }

    /// The pages of `slot`, to change.
    pub fn slot_mut(&mut self, slot: SlotId) -> Option<&mut DirtySet> {
        self.position(slot).map(|i| &mut self.sets[i].1)
    }

    /// Whether the page `offset` pages into `slot` is in; one that is in no slot is not.
    #[must_use]
    pub fn contains(&self, slot: SlotId, offset: u64) -> bool {
        self.slot(slot).is_some_and(|set| set.contains(offset))
    }

    /// How many pages are in.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.sets.iter().map(|(_, set)| set.len()).sum()
    }

    /// Whether no page is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.iter().all(|(_, set)| set.is_empty())
    }

    /// Adds the pages of `other`; how many were not there.
    pub fn union_with(&mut self, other: &Self) -> u64 {
        self.pairs(other).map(|(ours, theirs)| ours.union_with(theirs)).sum()
    }

    /// Takes out the pages of `other`; how many were there.
    pub fn subtract(&mut self, other: &Self) -> u64 {
        self.pairs(other).map(|(ours, theirs)| ours.subtract(theirs)).sum()
    }

    /// Moves the pages out and leaves none. Costs in the number of slots.
    #[must_use = "the pages are only in what is returned"]
    pub fn take(&mut self) -> Self {
        Self { sets: self.sets.iter_mut().map(|(slot, set)| (*slot, set.take())).collect() }
    }

    /// Slots and their sets, in the order of the slots' names; empty ones too.
    pub fn sets(&self) -> impl ExactSizeIterator<Item = (SlotId, &DirtySet)> {
        self.sets.iter().map(|(slot, set)| (*slot, set))
    }

    /// The pages, slot by slot, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, u64)> {
        self.sets().flat_map(|(slot, set)| set.iter().map(move |page| (slot, page)))
    }

    /// The pages as ranges, slot by slot, ascending.
    pub fn runs(&self) -> impl Iterator<Item = (SlotId, Range<u64>)> {
        self.sets().flat_map(|(slot, set)| set.runs().map(move |run| (slot, run)))
    }

    fn position(&self, slot: SlotId) -> Option<usize> {
        self.sets.binary_search_by_key(&slot, |(id, _)| *id).ok()
    }

    fn pairs<'a>(&'a mut self, other: &'a Self) -> impl Iterator<Item = (&'a mut DirtySet, &'a DirtySet)> {
        assert!(
            mutant::active(Mutant::ShorterOfTwo)
                || self.sets.iter().map(|(id, _)| id).eq(other.sets.iter().map(|(id, _)| id)),
            "dirty pages of different memslots"
        );
        self.sets.iter_mut().map(|(_, set)| set).zip(other.sets.iter().map(|(_, set)| set))
    }
}
