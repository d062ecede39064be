//! How far a round has come.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{DirtyPages, SlotId, SlotTable};

/// Which pages of a round under way are still to be read.
///
/// A page that is harvested while a round is under way is owed to the next one, unless this one reads it afterwards: then what it
/// reads has every write that was harvested, and a later write is harvested again, for a harvest protects before it reports.
/// That is about half of the pages of the round that the guest writes meanwhile. A guest that writes uniformly over W pages, ρ times
/// as fast as pages are sent, is left with the share 1 − 1/ρ of them in the end, instead of the x for which x = 1 − e^(−ρx): a
/// third, not 0.58, at ρ = 1.5.
///
/// Whoever reads calls [`reach`](Self::reach) before, and whoever harvests calls [`owed`](Self::owed) after. The lock puts the two
/// in an order: if the harvester was first, its harvest happens before the reading; if the reader was, the page is owed,
/// though it may have been read late enough.
#[derive(Debug)]
pub(super) struct Frontier {
    begun: Mutex<DirtyPages>,
}

impl Frontier {
    /// Of a round over `slots` of which nothing has been read.
    pub(super) fn new(slots: &SlotTable) -> Self {
        Self { begun: Mutex::new(DirtyPages::new(slots)) }
    }

    /// `pages` of `slot` may be read from now on.
    pub(super) fn reach(&self, slot: SlotId, pages: Range<u64>) {
        if let Some(set) = self.begun().slot_mut(slot) {
            set.insert_range(pages);
        }
    }

    /// Those of `harvested` that a round of `pages` does not read from now on: it has no more to do with them, or sends them as
    /// `holes` without a look.
    pub(super) fn owed(
        &self,
        mut harvested: DirtyPages,
        pages: &DirtyPages,
        holes: Option<&DirtyPages>,
    ) -> DirtyPages {
        let mut ahead = harvested.clone();
        for (slot, _) in harvested.sets() {
            if let (Some(ahead), Some(pages)) = (ahead.slot_mut(slot), pages.slot(slot)) {
                ahead.intersect(pages);
            }
        }
        if !mutant::active(Mutant::FrontierForgotten) {
            ahead.subtract(&self.begun());
        }
        if let Some(holes) = holes
            && !mutant::active(Mutant::HolesAhead)
        {
            ahead.subtract(holes);
        }
        harvested.subtract(&ahead);
        harvested
    }

    fn begun(&self) -> MutexGuard<'_, DirtyPages> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ringmark_dirty::{Gfn, Memslot};

    use super::*;

    const SLOTS: [SlotId; 2] = [SlotId::new(0, 0), SlotId::new(0, 1)];

    fn pages(table: &SlotTable, of: &[(usize, Range<u64>)]) -> DirtyPages {
        let mut pages = DirtyPages::new(table);
        for (slot, range) in of {
            pages.slot_mut(SLOTS[*slot]).unwrap().insert_range(range.clone());
        }
        pages
    }

    #[test]
    fn what_is_still_to_be_read_is_not_owed() {
        let slot = |at: usize, base| Memslot { id: SLOTS[at], base: Gfn(base), npages: 100 };
        let table = SlotTable::new([slot(0, 0), slot(1, 1000)]).unwrap();
        let frontier = Frontier::new(&table);
        // The second slot has pages that are none of the round's.
        let round = pages(&table, &[(0, 0..100), (1, 0..50)]);
        let holes = pages(&table, &[(0, 70..80)]);
        let harvested = pages(&table, &[(0, 60..90), (1, 40..60)]);
        let owed = |frontier: &Frontier| frontier.owed(harvested.clone(), &round, Some(&holes));
        assert_eq!(owed(&frontier), pages(&table, &[(0, 70..80), (1, 50..60)]));
        frontier.reach(SLOTS[0], 64..66);
        frontier.reach(SLOTS[1], 0..45);
        let now = pages(&table, &[(0, 64..66), (0, 70..80), (1, 40..45), (1, 50..60)]);
        assert_eq!(owed(&frontier), now);
        frontier.reach(SLOTS[0], 0..100);
        frontier.reach(SLOTS[1], 0..100);
        assert_eq!(owed(&frontier), harvested);
    }
}
