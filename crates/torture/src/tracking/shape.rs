//! What a small VM is to look like.

use fastrand::Rng;
use ringmark_track::Wish;

/// Pages of all slots together, as powers of two, so that guests' loops reach all.
const PAGES: std::ops::RangeInclusive<u32> = 10..=14;

/// The slots of a VM, and how it is tracked.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) npages: Vec<u64>,
    pub(crate) vcpus: u32,
    pub(crate) bitmap: bool,
    /// Entries of rings, a choice among a few.
    pub(crate) small_ring: bool,
}

impl Shape {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let total = 1 << rng.u32(PAGES);
        let mut cuts: Vec<u64> = (0..rng.usize(0..4)).map(|_| rng.u64(1..total)).collect();
        cuts.extend([0, total]);
        cuts.sort_unstable();
        cuts.dedup();
        Self {
            npages: cuts.windows(2).map(|ends| ends[1] - ends[0]).collect(),
            vcpus: rng.u32(1..=3),
            bitmap: rng.u8(..5) == 0,
            small_ring: rng.u8(..3) > 0,
        }
    }

    /// The wish, with the smallest ring of `least` entries or the largest.
    pub(crate) const fn wish(&self, least: u32) -> Wish {
        match (self.bitmap, self.small_ring) {
            (true, _) => Wish::Bitmap,
            (false, true) => Wish::Ring { entries: Some(least) },
            (false, false) => Wish::Ring { entries: None },
        }
    }

    pub(crate) fn pages(&self) -> u64 {
        self.npages.iter().sum()
    }
}
