//! The table of memslots.

use alloc::vec::Vec;

use crate::{Gfn, Memslot, SlotId};

/// The memslots that entries are checked against: what a dirty ring's `slot` and `offset` may name.
///
/// Looking a slot up, by name or by frame, is a binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotTable {
    by_id: Vec<Memslot>,
    by_base: Vec<Memslot>,
}

/// Why a set of memslots is not a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotTableError {
    /// A slot without pages, or with more than KVM allows.
    #[error("memslot {0} has {1} pages; a memslot has 1 to {max}", max = Memslot::MAX_PAGES)]
    Size(SlotId, u64),
    /// A slot that runs past the last frame.
    #[error("memslot {0} runs past the end of guest-physical memory; move it down or make it smaller")]
    Wraps(SlotId),
    /// Two slots of one name.
    #[error("memslot {0} is listed twice; give every slot of an address space its own number")]
    Duplicate(SlotId),
    /// Two slots of one address space that share frames.
    #[error("memslots {0} and {1} overlap; move one of them")]
    Overlap(SlotId, SlotId),
}

impl SlotTable {
    /// A table of `slots`, in any order.
    ///
    /// # Errors
    /// The refusals of `kvm_set_memory_region`. A slot of an impossible size or place is named first, in the order
    /// given; then a name that is listed twice; then two slots of one address space that overlap.
    pub fn new(slots: impl IntoIterator<Item = Memslot>) -> Result<Self, SlotTableError> {
        let mut by_id: Vec<Memslot> = slots.into_iter().collect();
        for slot in &by_id {
            if slot.npages == 0 || slot.npages > Memslot::MAX_PAGES {
                return Err(SlotTableError::Size(slot.id, slot.npages));
            }
            if slot.base.0.checked_add(slot.npages).is_none() {
                return Err(SlotTableError::Wraps(slot.id));
            }
        }
        by_id.sort_unstable_by_key(|s| s.id);
        if let Some(pair) = by_id.windows(2).find(|p| p[0].id == p[1].id) {
            return Err(SlotTableError::Duplicate(pair[0].id));
        }
        let mut by_base = by_id.clone();
        by_base.sort_unstable_by_key(place);
        let overlap = |p: &&[Memslot]| p[0].id.as_id() == p[1].id.as_id() && p[0].offset(p[1].base).is_some();
        if let Some(pair) = by_base.windows(2).find(overlap) {
            return Err(SlotTableError::Overlap(pair[0].id, pair[1].id));
        }
        Ok(Self { by_id, by_base })
    }

    /// The slot named `id`.
    #[must_use]
    pub fn get(&self, id: SlotId) -> Option<&Memslot> {
        self.by_id.binary_search_by_key(&id, |s| s.id).ok().map(|i| &self.by_id[i])
    }

    /// The slot of address space `as_id` that holds `gfn`, and the offset of `gfn` in it.
    #[must_use]
    pub fn find(&self, as_id: u16, gfn: Gfn) -> Option<(&Memslot, u64)> {
        let after = self.by_base.partition_point(|s| place(s) <= (as_id, gfn));
        let slot = self.by_base[..after].last().filter(|s| s.id.as_id() == as_id)?;
        slot.offset(gfn).map(|offset| (slot, offset))
    }

    /// The slots in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Memslot> {
        self.by_id.iter()
    }

    /// How many slots there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Pages of all slots together.
    #[must_use]
    pub fn total_pages(&self) -> u64 {
        self.by_id.iter().map(|s| s.npages).sum()
    }
}

fn place(slot: &Memslot) -> (u16, Gfn) {
    (slot.id.as_id(), slot.base)
}
