//! The audit: finds pages that changed though no source reported them.

use std::fmt;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, Gfn, Memslot, PageSize, SlotId, SlotTable};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{Memory, MemoryError};

/// Pages that one thread takes at a time: large enough that taking costs nothing, small enough to share out evenly.
const CHUNK: usize = 1024;

/// A page whose content changed though no source reported it. One is a failure, never a statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Escape {
    /// The memslot.
    pub slot: SlotId,
    /// The page, counted from the slot's start.
    pub offset: u64,
    /// The guest frame.
    pub gfn: Gfn,
    /// The size of the page.
    pub page_size: PageSize,
}

impl fmt::Display for Escape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of memslot {} (gfn {}", self.offset, self.slot, self.gfn)?;
        if let Some(address) = self.page_size.address(self.gfn) {
            write!(f, ", guest address {address:#x}")?;
        }
        f.write_str(") changed and no source reported it")
    }
}

/// What one observation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// Pages that were read.
    pub pages: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Unreported pages that changed, in the order of slots and offsets.
    pub escapes: Vec<Escape>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Eight bytes a page, by which every page is compared from cut to cut.
///
/// [`begin`](Self::begin) at one cut, [`observe`](Self::observe) at the next with the pages of the epoch in between: an
/// unreported page whose hash differs has escaped. Both are called while the guest is stopped and nothing else writes
/// its memory, or what is found means nothing; so an audited pause contains a walk of the whole memory, in parallel.
///
/// Two contents of one page share a hash by chance once in 2⁶⁴.
#[derive(Clone, Debug)]
pub struct Audit {
    page_size: PageSize,
    slots: Vec<Hashes>,
}

#[derive(Clone, Debug)]
struct Hashes {
    slot: Memslot,
    of_page: Vec<u64>,
}

/// A run of one slot's pages for one thread.
struct Chunk<'a> {
    slot: &'a Memslot,
    first: u64,
    hashes: &'a mut [u64],
}

impl Audit {
    /// Takes the hashes of every page of `slots`.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn begin(slots: &SlotTable, memory: &dyn Memory) -> Result<Self, MemoryError> {
        let slots = slots.iter().map(|&slot| {
            // A slot that is mapped fits the address space, and so do its hashes.
            let pages = usize::try_from(slot.npages).unwrap_or(usize::MAX);
            Hashes { slot, of_page: vec![0; pages] }
        });
        let mut audit = Self { page_size: memory.page_size(), slots: slots.collect() };
        audit.walk(memory, |_, _| true)?;
        Ok(audit)
    }

    /// Compares every page that `reported` does not contain with what it was, and takes the hashes anew.
    ///
    /// An escape is reported once: the next observation compares with the page as it is now.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn observe(
        &mut self,
        memory: &dyn Memory,
        reported: &DirtyPages,
    ) -> Result<AuditReport, MemoryError> {
        let begun = Instant::now();
        let escapes = self.walk(memory, |slot, offset| reported.contains(slot, offset))?;
        let pages = self.slots.iter().map(|hashes| hashes.slot.npages).sum();
        Ok(AuditReport { pages, bytes: pages * self.page_size.bytes(), escapes, elapsed: begun.elapsed() })
    }

    /// One number over the whole memory as it was last observed: XXH3 over every slot's name and length and the
    /// hashes of its pages. Memories of one layout share it exactly if every page is alike.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Xxh3::new();
        for Hashes { slot, of_page } in &self.slots {
            digest.update(&slot.id.raw().to_le_bytes());
            digest.update(&slot.npages.to_le_bytes());
            of_page.iter().for_each(|hash| digest.update(&hash.to_le_bytes()));
        }
        digest.digest()
    }

    /// Hashes every page, and returns those that changed and that `expected` does not excuse.
    fn walk(
        &mut self,
        memory: &dyn Memory,
        expected: impl Fn(SlotId, u64) -> bool + Sync,
    ) -> Result<Vec<Escape>, MemoryError> {
        let page_size = self.page_size;
        let chunks: Vec<Chunk<'_>> = self
            .slots
            .iter_mut()
            .flat_map(|Hashes { slot, of_page }| {
                let slot: &Memslot = slot;
                let firsts = (0..).step_by(CHUNK);
                of_page.chunks_mut(CHUNK).zip(firsts).map(move |(hashes, first)| Chunk {
                    slot,
                    first,
                    hashes,
                })
            })
            .collect();
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(chunks.len());
        let queue = Mutex::new(chunks.into_iter());
        let work = || {
            let mut page = vec![0; usize::try_from(page_size.bytes()).unwrap_or(usize::MAX)];
            let mut escapes = Vec::new();
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(chunk) = next else { return Ok(escapes) };
                for (offset, hash) in (chunk.first..).zip(chunk.hashes) {
                    memory.read(chunk.slot.id, offset, &mut page)?;
                    let now = xxh3_64(&page);
                    if std::mem::replace(hash, now) != now && !expected(chunk.slot.id, offset) {
                        let (slot, gfn) = (chunk.slot.id, Gfn(chunk.slot.base.0 + offset));
                        escapes.push(Escape { slot, offset, gfn, page_size });
                    }
                }
            }
        };
        let mut escapes = thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work()?;
            for helper in helpers {
                match helper.join() {
                    Ok(found) => all.extend(found?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })?;
        escapes.sort_unstable_by_key(|escape| (escape.slot, escape.offset));
        Ok(escapes)
    }
}
