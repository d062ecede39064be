//! The hashes of a random share of the pages.

use std::hash::{BuildHasher as _, RandomState};

use ringmark_dirty::{Gfn, Memslot, SlotId, SlotTable};

use super::walk::{Seen, hash, in_parallel, page_length};
use super::{AuditRate, Changed};
use crate::{Memory, MemoryError};

/// Pages that one thread takes at a time.
const PIECE: usize = 512;

/// Pages chosen at random, each with its hash, in the order of slots and offsets.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pages: Vec<Sampled>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sampled {
    pub(super) slot: Memslot,
    pub(super) offset: u64,
    pub(super) hash: u64,
}

impl Sample {
    pub(super) const fn nothing() -> Self {
        Self { pages: Vec::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Chooses and hashes.
    pub(super) fn draw(slots: &SlotTable, memory: &dyn Memory, rate: AuditRate) -> Result<Self, MemoryError> {
        Self::nothing().draw_again(slots, memory, rate)
    }

    /// Chooses anew and hashes, in the memory of this one.
    pub(super) fn draw_again(
        mut self,
        slots: &SlotTable,
        memory: &dyn Memory,
        rate: AuditRate,
    ) -> Result<Self, MemoryError> {
        self.pages.clear();
        let unread = |_, slot: &Memslot, offset| Some(Sampled { slot: *slot, offset, hash: 0 });
        choose_into(&mut self.pages, &mut generator(), slots.iter().copied(), rate, unread);
        self.visit(memory, |sampled, now, _| sampled.hash = now)?;
        Ok(self)
    }

    /// Chooses, and lets `of` fill in what is known of each page.
    pub(super) fn choose(
        slots: impl IntoIterator<Item = Memslot>,
        rate: AuditRate,
        of: impl Fn(usize, &Memslot, u64) -> Option<Sampled>,
    ) -> Self {
        let mut chosen = Self::nothing();
        choose_into(&mut chosen.pages, &mut generator(), slots, rate, of);
        chosen
    }

    /// Finds the pages that changed and that `excused` does not excuse; excused ones are not even read.
    pub(super) fn observe(
        &mut self,
        memory: &dyn Memory,
        excused: impl Fn(SlotId, u64) -> bool + Sync,
    ) -> Result<Seen, MemoryError> {
        self.pages.retain(|sampled| !excused(sampled.slot.id, sampled.offset));
        self.visit(memory, |sampled, now, seen| {
            seen.compared += 1;
            if sampled.hash != now {
                let (slot, offset) = (sampled.slot.id, sampled.offset);
                seen.changed.push(Changed { slot, offset, gfn: Gfn(sampled.slot.base.0 + offset) });
            }
        })
    }

    /// Reads every page of the sample, and gives its hash to `visit`.
    fn visit(
        &mut self,
        memory: &dyn Memory,
        visit: impl Fn(&mut Sampled, u64, &mut Seen) + Sync,
    ) -> Result<Seen, MemoryError> {
        let page = page_length(memory.page_size());
        in_parallel(self.pages.chunks_mut(PIECE).collect(), page, |piece, buffer, seen| {
            for sampled in piece {
                memory.read(sampled.slot.id, sampled.offset, buffer)?;
                visit(sampled, hash(buffer), seen);
            }
            Ok(())
        })
    }
}

/// A generator whose seed nobody can foresee: the keys of a [`RandomState`] are the system's entropy.
fn generator() -> fastrand::Rng {
    fastrand::Rng::with_seed(RandomState::new().hash_one(()))
}

/// Takes each page of `slots` with the probability that `rate` is, apart from all others.
///
/// The pages between two that are taken follow a geometric distribution, so this costs what is taken and not what there
/// is.
fn choose_into(
    chosen: &mut Vec<Sampled>,
    generator: &mut fastrand::Rng,
    slots: impl IntoIterator<Item = Memslot>,
    rate: AuditRate,
    of: impl Fn(usize, &Memslot, u64) -> Option<Sampled>,
) {
    let log_left = (1.0 - rate.probability()).ln();
    let mut gap = move || {
        // In (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - generator.f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative; a gap too large for the type saturates past every slot's end"
        )]
        let gap = (uniform.ln() / log_left) as u64;
        gap
    };
    let mut next = gap();
    for (place, slot) in slots.into_iter().enumerate() {
        while next < slot.npages {
            chosen.extend(of(place, &slot, next));
            next = next.saturating_add(1).saturating_add(gap());
        }
        next -= slot.npages;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(npages: &[u64]) -> Vec<Memslot> {
        (0..)
            .zip(npages)
            .map(|(id, &npages)| Memslot { id: SlotId::new(0, id), base: Gfn(0), npages })
            .collect()
    }

    fn chosen(seed: u64, rate: &str, npages: &[u64]) -> Vec<(SlotId, u64)> {
        let mut pages = Vec::new();
        let of = |_, slot: &Memslot, offset| Some(Sampled { slot: *slot, offset, hash: 0 });
        let mut generator = fastrand::Rng::with_seed(seed);
        choose_into(&mut pages, &mut generator, slots(npages), rate.parse().unwrap(), of);
        pages.iter().map(|sampled| (sampled.slot.id, sampled.offset)).collect()
    }

    proptest! {
        #[test]
        fn what_is_chosen_are_pages_in_order(
            seed: u64,
            rate in (1_u32..1_000_000).prop_map(|n| format!("{}.{:04}%", n / 10_000, n % 10_000)),
            npages in prop::collection::vec(1_u64..5000, 1..5),
        ) {
            let pages = chosen(seed, &rate, &npages);
            prop_assert!(pages.is_sorted_by(|a, b| a < b));
            prop_assert!(pages.iter().all(|(slot, page)| *page < npages[usize::from(slot.id())]));
        }
    }

    /// Over many draws every page is chosen about as often as the rate says: within five standard deviations.
    #[test]
    fn every_page_has_the_same_chance() {
        let npages = [3, 60, 1];
        let draws = 40_000;
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..draws {
            for page in chosen(seed, "3%", &npages) {
                *counts.entry(page).or_insert(0_u32) += 1;
            }
        }
        assert_eq!(counts.len(), 64);
        for (page, count) in counts {
            assert!((1200 - 171..=1200 + 171).contains(&count), "{page:?}: {count}");
        }
    }

    #[test]
    fn two_draws_differ() {
        let draw = || {
            Sample::choose(slots(&[1 << 20]), "1%".parse().unwrap(), |_, slot, offset| {
                Some(Sampled { slot: *slot, offset, hash: 0 })
            })
        };
        let places = |sample: &Sample| sample.pages.iter().map(|sampled| sampled.offset).collect::<Vec<_>>();
        assert_ne!(places(&draw()), places(&draw()));
    }
}
