//! What one harvest brings in.

use ringmark_dirty::{DirtyPages, OutOfRange, SlotId, SlotTable};

/// The pages of one harvest: those that a source reported, and those that are reported because it cannot know.
///
/// The two are kept apart so that an epoch can say how many of its pages are there only because of an
/// [`Event`](crate::Event).
#[derive(Clone, Debug)]
pub struct Collected {
    reported: DirtyPages,
    suspected: DirtyPages,
}

impl Collected {
    /// Nothing, over the memslots of `slots`.
    #[must_use]
    pub fn new(slots: &SlotTable) -> Self {
        Self { reported: DirtyPages::new(slots), suspected: DirtyPages::new(slots) }
    }

    /// Reports page `offset` of `slot`.
    ///
    /// # Errors
    /// If there is no such slot or page. A source that gets this error has lost a page: it must
    /// [suspect](Self::suspect) what the page could have been.
    pub fn insert(&mut self, slot: SlotId, offset: u64) -> Result<(), OutOfRange> {
        self.reported.insert(slot, offset).map(drop)
    }

    /// Reports the pages of `slot` whose bits are set in `words`, bit 0 of the first word being page 0. Bits past the
    /// slot's end are ignored, as in the kernel's bitmaps.
    ///
    /// # Errors
    /// If there is no such slot.
    pub fn insert_words(&mut self, slot: SlotId, words: &[u64]) -> Result<(), OutOfRange> {
        let set = self.reported.slot_mut(slot).ok_or(OutOfRange::UnknownSlot(slot))?;
        set.insert_words(0, words);
        Ok(())
    }

    /// Reports every page of `slot`, because it is not known which were written; every page of all, if it is not even
    /// known what the slot is.
    pub fn suspect(&mut self, slot: SlotId) {
        if self.suspected.insert_slot(slot).is_err() {
            self.suspected.insert_all();
        }
    }

    /// Reports every page of every slot.
    pub fn suspect_all(&mut self) {
        self.suspected.insert_all();
    }

    /// The pages that were reported as written.
    #[must_use]
    pub const fn reported(&self) -> &DirtyPages {
        &self.reported
    }

    /// The pages that are reported because of an event.
    #[must_use]
    pub const fn suspected(&self) -> &DirtyPages {
        &self.suspected
    }

    /// Adds what `other` holds.
    pub fn union_with(&mut self, other: &Self) {
        self.reported.union_with(&other.reported);
        self.suspected.union_with(&other.suspected);
    }

    /// Everything collected so far, leaving nothing.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { reported: self.reported.take(), suspected: self.suspected.take() }
    }
}
