//! One number over everything that was sent, kept at the cost of what is sent.

use std::sync::atomic::{AtomicU64, Ordering};

use ringmark_dirty::{SlotId, SlotTable};
use ringmark_track::{AuditRate, Memory, MemoryError};
use twox_hash::XxHash3_64;

/// The hash of a page's content, wherever it lies.
#[must_use]
pub fn hash_content(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// A content's hash at its place: never zero, which stands for a page that was never sent.
fn place(slot: SlotId, page: u64, content: u64) -> u64 {
    // A slot has fewer than 2^32 pages, so that no two places share a seed.
    XxHash3_64::oneshot_with_seed(u64::from(slot.raw()) << 32 ^ page, &content.to_le_bytes()).max(1)
}

/// The hash of every page as it was sent, or received, last: eight bytes a page, zero for one that never was.
///
/// Both sides keep one; that the numbers over them agree says that every page that was sent is in the destination's
/// memory as it was sent *last*: none lost, none damaged, none overtaken by an older one.
///
/// Streams write to it at the same time. The pages of one stream are no other's, so each entry has one writer and
/// relaxed accesses suffice; the number over all is taken when the streams have been joined or have passed a barrier.
#[derive(Debug)]
pub struct Ledger {
    slots: Vec<(SlotId, Vec<AtomicU64>)>,
}

/// One stream's share of the number over a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally(u64);

impl Tally {
    /// The two shares in one.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    /// The number over all pages, once all shares are in.
    #[must_use]
    pub const fn digest(self) -> u64 {
        self.0
    }
}

impl Ledger {
    /// A ledger of memory of which nothing was sent.
    #[must_use]
    pub fn new(slots: &SlotTable) -> Self {
        let entries = |npages| (0..npages).map(|_| AtomicU64::new(0)).collect();
        Self { slots: slots.iter().map(|slot| (slot.id, entries(slot.npages))).collect() }
    }

    /// Whether it is one of memory with these slots.
    #[must_use]
    pub fn is_of(&self, slots: &SlotTable) -> bool {
        let ours = self.slots.iter().map(|(id, entries)| (*id, entries.len() as u64));
        ours.eq(slots.iter().map(|slot| (slot.id, slot.npages)))
    }

    /// Enters what a page is now, by the hash of its content; `tally` is the calling stream's.
    pub fn enter(&self, tally: &mut Tally, slot: SlotId, page: u64, content: u64) {
        let Some(entry) = self.entry(slot, page) else { return };
        let hash = place(slot, page, content);
        let before = entry.swap(hash, Ordering::Relaxed);
        tally.0 ^= before ^ hash;
    }

    /// The pages of `memory` that are not as they were sent last, of those that are looked at: each with the probability
    /// `rate`. While no guest runs, each is a page whose write nobody reported.
    ///
    /// # Errors
    /// If memory cannot be read.
    pub fn escapes(&self, memory: &dyn Memory, rate: AuditRate) -> Result<Vec<(SlotId, u64)>, MemoryError> {
        /// Pages that are read at a time.
        const RUN: usize = 64;
        let page = usize::try_from(memory.page_size().bytes()).unwrap_or(usize::MAX);
        let mut buffer = vec![0; RUN.saturating_mul(page)];
        let looked_at = |_: u64| rate.is_every_page() || fastrand::f64() < rate.probability();
        let mut escapes = Vec::new();
        for (slot, entries) in &self.slots {
            for (first, sent) in (0..).step_by(RUN).zip(entries.chunks(RUN)) {
                let chosen: Vec<u64> = (first..first + sent.len() as u64).filter(|&p| looked_at(p)).collect();
                let (Some(&from), Some(&to)) = (chosen.first(), chosen.last()) else { continue };
                let count = usize::try_from(to - from + 1).unwrap_or(RUN);
                memory.read_run(*slot, from, &mut buffer[..count * page])?;
                for offset in chosen {
                    let at = usize::try_from(offset - from).unwrap_or_default() * page;
                    let now = place(*slot, offset, hash_content(&buffer[at..at + page]));
                    let entry = usize::try_from(offset - first).ok().and_then(|index| sent.get(index));
                    if entry.is_none_or(|sent| sent.load(Ordering::Relaxed) != now) {
                        escapes.push((*slot, offset));
                    }
                }
            }
        }
        Ok(escapes)
    }

    /// The number over everything that is entered, for who has lost count of it: costs in the size of memory.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let entries = self.slots.iter().flat_map(|(_, entries)| entries);
        Tally(entries.fold(0, |all, entry| all ^ entry.load(Ordering::Relaxed)))
    }

    fn entry(&self, slot: SlotId, page: u64) -> Option<&AtomicU64> {
        let (_, entries) = self.slots.iter().find(|(id, _)| *id == slot)?;
        entries.get(usize::try_from(page).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmark_dirty::{Gfn, Memslot};

    #[test]
    fn the_order_of_pages_does_not_matter_and_that_of_one_page_does() {
        let slot = SlotId::new(0, 0);
        let slots = SlotTable::new([Memslot { id: slot, base: Gfn(0), npages: 8 }]).unwrap();
        let digest = |entries: &[(u64, u8)]| {
            let (ledger, mut tally) = (Ledger::new(&slots), Tally::default());
            for (page, byte) in entries {
                ledger.enter(&mut tally, slot, *page, hash_content(&[*byte; 64]));
            }
            assert_eq!(ledger.tally(), tally);
            tally.digest()
        };
        let sent = digest(&[(1, 1), (2, 2), (1, 3)]);
        assert_eq!(digest(&[(2, 2), (1, 3)]), sent, "what was sent last counts");
        assert_ne!(digest(&[(2, 2), (1, 3), (1, 1)]), sent, "an older copy came later");
        assert_ne!(digest(&[(1, 3)]), sent, "a page is missing");
        assert_ne!(digest(&[(3, 2), (1, 3)]), sent, "a page is in another's place");
    }

    #[test]
    fn a_page_that_changed_after_it_was_sent_is_an_escape() {
        use std::sync::Mutex;

        #[derive(Debug)]
        struct Pages(Mutex<Vec<u8>>);
        impl Memory for Pages {
            fn page_size(&self) -> ringmark_dirty::PageSize {
                ringmark_dirty::PageSize::new(4096).unwrap()
            }
            fn read(&self, _: SlotId, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
                let at = usize::try_from(offset).unwrap() * 4096;
                buffer.copy_from_slice(&self.0.lock().unwrap()[at..at + buffer.len()]);
                Ok(())
            }
        }
        let slot = SlotId::new(0, 0);
        let slots = SlotTable::new([Memslot { id: slot, base: Gfn(0), npages: 100 }]).unwrap();
        let (memory, ledger) = (Pages(Mutex::new(vec![7; 100 * 4096])), Ledger::new(&slots));
        let mut tally = Tally::default();
        (0..100).for_each(|page| ledger.enter(&mut tally, slot, page, hash_content(&[7; 4096])));
        assert_eq!(ledger.escapes(&memory, AuditRate::EVERY_PAGE).unwrap(), []);
        for page in [0, 64, 99] {
            memory.0.lock().unwrap()[page * 4096 + 8] = 1;
        }
        let found = ledger.escapes(&memory, AuditRate::EVERY_PAGE).unwrap();
        assert_eq!(found, [(slot, 0), (slot, 64), (slot, 99)]);
    }
}
