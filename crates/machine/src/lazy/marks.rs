//! Which pages are on their way, and which have arrived.

use std::ops::Range;

use ringmark_dirty::{AtomicBitmap, DirtyPages, Memslot, SlotId, SlotTable};

/// Two bits a page.
#[derive(Debug)]
pub(super) struct Marks {
    slots: Vec<SlotMarks>,
}

#[derive(Debug)]
struct SlotMarks {
    slot: Memslot,
    /// Set before a page is placed: from here on somebody may have written it.
    begun: AtomicBitmap,
    /// Set after a page is placed, or once it is known to be zero, which a hole of the memory file is, too: from here on
    /// reading the file is right.
    arrived: AtomicBitmap,
}

impl Marks {
    pub(super) fn new(slots: &SlotTable) -> Self {
        let marks = |slot: &Memslot| SlotMarks {
            slot: *slot,
            begun: AtomicBitmap::new(slot.npages),
            arrived: AtomicBitmap::new(slot.npages),
        };
        Self { slots: slots.iter().map(marks).collect() }
    }

    /// The place of `slot` among the slots.
    pub(super) fn position(&self, slot: SlotId) -> Option<usize> {
        self.slots.iter().position(|marks| marks.slot.id == slot)
    }

    /// The slot at a place.
    pub(super) fn slot(&self, at: usize) -> Option<SlotId> {
        self.slots.get(at).map(|marks| marks.slot.id)
    }

    /// Whether the memory file holds the page; one that is in no slot does not matter.
    pub(super) fn has_arrived(&self, slot: SlotId, offset: u64) -> bool {
        self.of(slot).is_none_or(|marks| offset >= marks.slot.npages || marks.arrived.test(offset))
    }

    /// Release: whoever writes one of these pages does so after this, and says so later.
    pub(super) fn begin(&self, slot: SlotId, pages: Range<u64>) {
        if let Some(marks) = self.of(slot) {
            marks.begun.set_range(marks.clip(pages));
        }
    }

    pub(super) fn arrive(&self, slot: SlotId, pages: Range<u64>) {
        if let Some(marks) = self.of(slot) {
            marks.arrived.set_range(marks.clip(pages));
        }
    }

    /// The runs of `pages` that have not arrived.
    pub(super) fn missing_runs(&self, slot: SlotId, pages: Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for offset in pages {
            if self.has_arrived(slot, offset) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == offset => run.end += 1,
                _ => runs.push(offset..offset + 1),
            }
        }
        runs
    }

    /// Adds every page that nobody can have written to `pages`.
    pub(super) fn outstanding(&self, pages: &mut DirtyPages) {
        self.add_clear(pages, |marks| &marks.begun);
    }

    /// Adds every page that has not arrived to `pages`.
    pub(super) fn missing(&self, pages: &mut DirtyPages) {
        self.add_clear(pages, |marks| &marks.arrived);
    }

    /// Pages that were placed.
    pub(super) fn placed(&self) -> u64 {
        self.slots.iter().map(|marks| marks.begun.count()).sum()
    }

    fn add_clear(&self, pages: &mut DirtyPages, which: impl Fn(&SlotMarks) -> &AtomicBitmap) {
        for marks in &self.slots {
            let Some(set) = pages.slot_mut(marks.slot.id) else { continue };
            let bitmap = which(marks);
            for word in 0..bitmap.words() {
                // Bits past the end of the slot are ignored.
                set.insert_words(word as u64 * 64, &[!bitmap.load_word(word)]);
            }
        }
    }

    fn of(&self, slot: SlotId) -> Option<&SlotMarks> {
        self.slots.iter().find(|marks| marks.slot.id == slot)
    }
}

impl SlotMarks {
    fn clip(&self, pages: Range<u64>) -> Range<u64> {
        let end = pages.end.min(self.slot.npages);
        pages.start.min(end)..end
    }
}
