//! Copies of pages in this process's memory, taken while the guest stands or runs and written to the store later.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use ringmark_dirty::{DirtyPages, SlotId};
use ringmark_track::MemoryError;

use crate::ram::{Ram, outside};

/// Fewer pages than this are copied by the calling thread: waking others costs more.
const PARALLEL_PAGES: usize = 512;

/// A set of page copies; copying a page again replaces its older copy.
///
/// Between checkpoints the memory is kept, because the pause of the next one would otherwise be spent on first
/// touching it: a fault a page costs more than the copy.
#[derive(Debug)]
pub(crate) struct Stage {
    page_bytes: usize,
    arena: Vec<u8>,
    /// The page that each place of the arena holds.
    pages: Vec<(SlotId, u64)>,
    /// For each slot, one more than the place of each of its pages; 0 is a page that is not held.
    places: Vec<(SlotId, Vec<u32>)>,
    /// Threads of its own: in the pause, copies must not queue behind pages that the store is compressing. `None` where
    /// the system has no thread left; then the caller copies alone.
    pool: Option<ThreadPool>,
}

impl Stage {
    /// An empty stage for pages of `ram`.
    #[must_use]
    pub(crate) fn new(ram: &Ram) -> Self {
        let entries = |npages| vec![0; usize::try_from(npages).unwrap_or(usize::MAX)];
        Self {
            page_bytes: usize::try_from(ram.layout().page_size().bytes()).unwrap_or(usize::MAX),
            arena: Vec::new(),
            pages: Vec::new(),
            places: ram.layout().slots().iter().map(|slot| (slot.id, entries(slot.npages))).collect(),
            pool: ThreadPoolBuilder::new().thread_name(|i| format!("stage{i}")).build().ok(),
        }
    }

    /// Pages held.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// `pages` in two: those of which a copy is held, and the others.
    pub(crate) fn split(&self, pages: &DirtyPages) -> (DirtyPages, DirtyPages) {
        let (mut held, mut others) = (pages.clone(), pages.clone());
        drop(held.take());
        for (slot, offset) in pages.iter().filter(|(slot, offset)| self.holds(*slot, *offset)) {
            // It is a page of the same slots.
            let _ = held.insert(slot, offset);
        }
        others.subtract(&held);
        (held, others)
    }

    fn holds(&self, slot: SlotId, offset: u64) -> bool {
        let entries = self.places.iter().find(|(id, _)| *id == slot).map(|(_, entries)| entries);
        let place = usize::try_from(offset).ok().and_then(|offset| entries?.get(offset));
        place.is_some_and(|place| *place != 0)
    }

    /// Forgets the copies; memory of up to `keep_pages` pages stays for the next use.
    pub(crate) fn clear(&mut self, keep_pages: usize) {
        for (slot, offset) in std::mem::take(&mut self.pages) {
            if let Some(place) = place_of(&mut self.places, slot, offset) {
                *place = 0;
            }
        }
        let keep = keep_pages.saturating_mul(self.page_bytes);
        if self.arena.len() > keep {
            self.arena.truncate(keep);
            self.arena.shrink_to_fit();
        }
    }

    /// Makes room for `pages` more pages and touches it, so that the next [`copy`](Self::copy) of as many is not slowed
    /// by faults of this process.
    pub(crate) fn reserve(&mut self, pages: usize) {
        let need = self.pages.len().saturating_add(pages).saturating_mul(self.page_bytes);
        if self.arena.len() < need {
            self.arena.resize(need, 0);
        }
        self.pages.reserve(pages);
    }

    /// Copies `pages` out of guest memory.
    ///
    /// # Errors
    /// If a page does not lie in guest memory; the copies of this call are then incomplete.
    pub(crate) fn copy(&mut self, ram: &Ram, pages: &DirtyPages) -> Result<(), MemoryError> {
        let count = usize::try_from(pages.len()).unwrap_or(usize::MAX);
        self.reserve(count);
        let mut wanted = Vec::with_capacity(count);
        for (slot, offset) in pages.iter() {
            let place = place_of(&mut self.places, slot, offset).ok_or_else(|| outside(slot, offset))?;
            if *place == 0 {
                self.pages.push((slot, offset));
                *place = u32::try_from(self.pages.len()).unwrap_or(u32::MAX);
            }
            wanted.push((*place as usize - 1, slot, offset));
        }
        let size = self.page_bytes;
        let Some(pool) = self.pool.as_ref().filter(|_| wanted.len() >= PARALLEL_PAGES) else {
            return wanted.into_iter().try_for_each(|(place, slot, offset)| {
                ram.read_pages(slot, offset, &mut self.arena[place * size..(place + 1) * size])
            });
        };
        // Disjoint targets for several threads: cut the arena at each place, in order.
        wanted.sort_unstable();
        let mut targets = Vec::with_capacity(wanted.len());
        let (mut rest, mut cut) = (self.arena.as_mut_slice(), 0);
        for (place, slot, offset) in wanted {
            let (target, after) = rest[(place - cut) * size..].split_at_mut(size);
            targets.push((slot, offset, target));
            (rest, cut) = (after, place + 1);
        }
        pool.install(|| {
            targets
                .into_par_iter()
                .with_min_len(PARALLEL_PAGES / 4)
                .try_for_each(|(slot, offset, target)| ram.read_pages(slot, offset, target))
        })
    }

    /// The copies in the order of slots and pages, as runs of at most `longest` neighbouring pages.
    ///
    /// # Errors
    /// The first error of `take` ends the walk.
    pub(crate) fn for_each_run<E>(
        &self,
        longest: usize,
        mut take: impl FnMut(SlotId, u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut order: Vec<_> =
            self.pages.iter().enumerate().map(|(place, &(slot, offset))| (slot, offset, place)).collect();
        order.sort_unstable();
        let mut buffer = Vec::with_capacity(longest.saturating_mul(self.page_bytes));
        let neighbours = |a: &(SlotId, u64, usize), b: &(SlotId, u64, usize)| a.0 == b.0 && a.1 + 1 == b.1;
        for run in order.chunk_by(neighbours).flat_map(|run| run.chunks(longest.max(1))) {
            buffer.clear();
            for &(_, _, place) in run {
                buffer.extend_from_slice(&self.arena[place * self.page_bytes..(place + 1) * self.page_bytes]);
            }
            take(run[0].0, run[0].1, &buffer)?;
        }
        Ok(())
    }
}

fn place_of(places: &mut [(SlotId, Vec<u32>)], slot: SlotId, offset: u64) -> Option<&mut u32> {
    let (_, entries) = places.iter_mut().find(|(id, _)| *id == slot)?;
    entries.get_mut(usize::try_from(offset).ok()?)
}
