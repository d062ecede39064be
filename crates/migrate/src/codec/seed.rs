//! What the destination has of an old image of the machine.

use ringmark_dirty::{SlotId, SlotTable};
use twox_hash::XxHash3_64;

use crate::wire::{Hashes, Seed};

/// The hash by which a page of an old image is compared. It is not the one of the [digest](super::hash_content): two pages
/// that collide here do not collide there, so that a page which is left out by mistake is found by the digest.
#[must_use]
pub fn hash_seeded(key: u64, bytes: &[u8]) -> u64 {
    // Zero stands for a page of which nothing is known.
    XxHash3_64::oneshot_with_seed(key, bytes).max(1)
}

/// The hashes that a destination offers: eight bytes a page.
#[derive(Debug)]
pub struct Seeded {
    seed: Seed,
    /// Pages whose hashes are still to come.
    left: u64,
    slots: Vec<(SlotId, Vec<u64>)>,
}

/// Hashes that are of no pages of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// More than were announced, or than there are.
    #[error("the destination offers the hashes of {0} pages, of a machine that has {1}")]
    Pages(u64, u64),
    /// Of pages that there are not, or none.
    #[error(
        "the destination sent {count} hashes of pages from {first} on of memslot {slot}, which has not so many"
    )]
    Outside {
        /// The memslot.
        slot: SlotId,
        /// The first page.
        first: u64,
        /// How many.
        count: usize,
    },
}

impl Seeded {
    /// Room for what `seed` announces of a machine with `slots`.
    ///
    /// # Errors
    /// If that is more than there is.
    pub fn new(seed: Seed, slots: &SlotTable) -> Result<Self, SeedError> {
        if seed.pages > slots.total_pages() {
            return Err(SeedError::Pages(seed.pages, slots.total_pages()));
        }
        Ok(Self { seed, left: seed.pages, slots: slots.iter().map(|slot| (slot.id, Vec::new())).collect() })
    }

    /// Whether hashes are still to come.
    #[must_use]
    pub const fn is_incomplete(&self) -> bool {
        self.left > 0
    }

    /// Takes what a message holds.
    ///
    /// # Errors
    /// If it is of other pages than there are.
    pub fn take(&mut self, message: &Hashes, slots: &SlotTable) -> Result<(), SeedError> {
        let (hashes, rest) = message.hashes.as_chunks::<8>();
        let (slot, count) = (SlotId::from_raw(message.slot), hashes.len());
        let outside = SeedError::Outside { slot, first: message.first, count };
        let npages = slots.get(slot).map_or(0, |slot| slot.npages);
        let end = message.first.checked_add(count as u64).filter(|end| *end <= npages).ok_or(outside)?;
        if count == 0 || !rest.is_empty() {
            return Err(outside);
        }
        self.left = self.left.checked_sub(count as u64).ok_or(SeedError::Pages(u64::MAX, self.seed.pages))?;
        let known = self.slots.iter_mut().find(|(id, _)| *id == slot).map(|(_, known)| known);
        let (known, end) = known.zip(usize::try_from(end).ok()).ok_or(outside)?;
        if known.len() < end {
            known.resize(end, 0);
        }
        for (known, hash) in known[end - count..end].iter_mut().zip(hashes) {
            *known = u64::from_le_bytes(*hash);
        }
        Ok(())
    }

    /// Whether the destination has this page as it is here.
    #[must_use]
    pub fn has(&self, slot: SlotId, page: u64, bytes: &[u8]) -> bool {
        let known = self.slots.iter().find(|(id, _)| *id == slot);
        let known = known.and_then(|(_, known)| known.get(usize::try_from(page).ok()?));
        known.is_some_and(|known| *known != 0 && *known == hash_seeded(self.seed.key, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmark_dirty::{Gfn, Memslot};

    #[test]
    fn only_hashes_of_pages_that_there_are_count() {
        let slot = SlotId::new(0, 2);
        let slots = SlotTable::new([Memslot { id: slot, base: Gfn(0), npages: 8 }]).unwrap();
        let seed = Seed { pages: 2, key: 5 };
        assert!(Seeded::new(Seed { pages: 9, key: 0 }, &slots).is_err());
        let mut seeded = Seeded::new(seed, &slots).unwrap();
        let (old, new) = ([1; 64], [2; 64]);
        let message = |first, pages: &[&[u8]]| {
            let hashes = pages.iter().flat_map(|page| hash_seeded(5, page).to_le_bytes()).collect();
            Hashes { slot: slot.raw(), first, hashes }
        };
        assert!(seeded.take(&message(7, &[&old, &old]), &slots).is_err());
        assert!(seeded.take(&message(u64::MAX, &[&old]), &slots).is_err());
        assert!(seeded.take(&message(0, &[]), &slots).is_err());
        assert!(seeded.take(&Hashes { slot: 9, ..message(0, &[&old]) }, &slots).is_err());
        assert!(seeded.take(&Hashes { hashes: vec![0; 9], ..message(0, &[]) }, &slots).is_err());
        assert!(seeded.is_incomplete());
        seeded.take(&message(6, &[&old, &old]), &slots).unwrap();
        assert!(!seeded.is_incomplete());
        assert!(seeded.has(slot, 6, &old) && !seeded.has(slot, 6, &new));
        assert!(!seeded.has(slot, 5, &old) && !seeded.has(SlotId::new(0, 1), 6, &old));
        assert!(seeded.take(&message(0, &[&old]), &slots).is_err(), "more than were announced");
        let other = hash_seeded(6, &old);
        assert_ne!(other, hash_seeded(5, &old));
        assert_ne!(other, super::super::hash_content(&old));
    }
}
