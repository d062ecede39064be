//! User space's end of a ring.

use core::fmt;

use super::memory::{entry_at, size_of_ring};
use crate::mutant::{self, Mutant};
use crate::{Entry, FLAG_DIRTY, FLAG_RESET, Memslot, RingError, RingMemory, SlotId, SlotTable};

const STATE: u32 = FLAG_DIRTY | FLAG_RESET;

/// User space's end of a ring: takes entries in the order they were pushed and marks them for reset.
///
/// It keeps the one index that user space has, a free-running counter that starts at 0 when the vCPU is created and
/// must live as long as the vCPU: a harvester that is handed over goes as [`index`](Self::index) and comes back by
/// [`from_index`](Self::from_index).
///
/// # Concurrency
///
/// The vCPU may push while this harvests. An entry belongs to user space from the moment its flags are seen to be
/// exactly [`FLAG_DIRTY`] until [`FLAG_RESET`] is stored, and no one else writes it in between (a ring that is hard
/// full excepted); `&mut self` keeps other harvesters away. The flags are loaded with acquire, so the payload read
/// after is the one that was published with them; the mark is stored with release, so the kernel cannot recycle an
/// entry whose payload is still being read.
///
/// Whoever harvests must hold one lock over *harvest, reset and the reading of pages*: `KVM_RESET_DIRTY_RINGS` flushes
/// translations after it has dropped its own lock, and a second caller would read pages that can still be written
/// unlogged.
///
/// # When a ring overflows
///
/// KVM should stop a vCPU long before its ring is full. Where it does not, the oldest entries are overwritten, their
/// pages are lost, and the two ends stop agreeing on where the next entry is. [`Harvest::overflow`] notices: from then
/// on every page of every logged slot counts as dirty. [`resync`](Self::resync) makes the ring usable again.
pub struct Harvester<M> {
    pub(super) memory: M,
    pub(super) size: u32,
    pub(super) fetch: u32,
}

/// An entry taken from a ring, held against the memslots.
///
/// The entry went back to the kernel whichever it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Harvested {
    /// A dirty page.
    Page {
        /// The memslot.
        slot: SlotId,
        /// The page, counted from the start of the slot.
        offset: u64,
    },
    /// The entry names a memslot that is not in the table: deleted since, or never there.
    UnknownSlot {
        /// The name in the entry.
        slot: SlotId,
        /// The offset in the entry.
        offset: u64,
    },
    /// The entry lies past the end of its memslot.
    PastEnd {
        /// The memslot.
        slot: SlotId,
        /// The offset in the entry.
        offset: u64,
        /// How many pages the memslot has.
        npages: u64,
    },
}

impl<M: RingMemory> Harvester<M> {
    /// The harvester of a ring whose vCPU was just created.
    ///
    /// # Errors
    /// If the length of `memory` is no power of two.
    pub fn new(memory: M) -> Result<Self, RingError> {
        Self::from_index(memory, 0)
    }

    /// A harvester that goes on where another stood: `fetch` is its [`index`](Self::index).
    ///
    /// # Errors
    /// If the length of `memory` is no power of two.
    pub fn from_index(memory: M, fetch: u32) -> Result<Self, RingError> {
        let size = size_of_ring(&memory)?;
        Ok(Self { memory, size, fetch })
    }

    /// The free-running index of the next entry to take.
    pub fn index(&self) -> u32 {
        self.fetch
    }

    /// Entries in the ring.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The memory of the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes what is in the ring, entry by entry, at most [`size`](Self::size) of them.
    ///
    /// An entry is taken when the iterator yields it; dropping the iterator early leaves the rest for the next call.
    /// The pages are not clean, nor safe to read, until the kernel has reset the entries.
    pub fn harvest<'a>(&'a mut self, slots: &'a SlotTable) -> Harvest<'a> {
        Harvest {
            entries: self.memory.entries(),
            fetch: &mut self.fetch,
            slots,
            last: None,
            left: self.size,
            taken: 0,
        }
    }

    /// How many entries could be taken now.
    pub fn pending(&self) -> u32 {
        let entries = self.memory.entries();
        let mut pending = 0;
        while pending < self.size && state(entries, self.fetch.wrapping_add(pending)) == FLAG_DIRTY {
            pending += 1;
        }
        pending
    }
}

/// The two flag bits of the entry that `index` falls on, load-acquire.
#[inline]
pub(super) fn state(entries: &[Entry], index: u32) -> u32 {
    entry_at(entries, index).flags() & STATE
}

impl<M> fmt::Debug for Harvester<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harvester")
            .field("size", &self.size)
            .field("fetch", &self.fetch)
            .finish_non_exhaustive()
    }
}

/// One drain of a ring; see [`Harvester::harvest`].
#[derive(Debug)]
#[must_use = "entries are taken as the iterator yields them"]
pub struct Harvest<'a> {
    entries: &'a [Entry],
    fetch: &'a mut u32,
    slots: &'a SlotTable,
    /// The slot of the entry before: runs of entries of one slot are the rule.
    last: Option<&'a Memslot>,
    left: u32,
    taken: u32,
}

impl Harvest<'_> {
    /// Entries taken so far, of every kind: what the kernel's reset will count.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Whether there was no empty entry in the whole ring: entries may have been overwritten.
    ///
    /// Ask when done with the drain and before the next reset, which wipes the traces: the ring was full if every entry
    /// was dirty, or if the drain stands before one that was harvested earlier and not reset. It never is where the
    /// kernel keeps its reserve.
    /// Every page of every logged slot must be taken for dirty then; for the ring see [`Harvester::resync`].
    #[must_use]
    pub fn overflow(&self) -> bool {
        if mutant::active(Mutant::OverflowUnseen) {
            return false;
        }
        // The entry before the first of this drain is the last to become dirty.
        let last = self.fetch.wrapping_sub(self.taken).wrapping_sub(1);
        self.taken as usize == self.entries.len()
            || state(self.entries, last) == FLAG_DIRTY
            || state(self.entries, *self.fetch) & FLAG_RESET != 0
    }

    fn classify(&mut self, slot: SlotId, offset: u64) -> Harvested {
        if self.last.is_none_or(|last| last.id != slot) {
            match self.slots.get(slot) {
                None => return Harvested::UnknownSlot { slot, offset },
                known => self.last = known,
            }
        }
        match self.last {
            Some(known) if offset >= known.npages && !mutant::active(Mutant::EntryUnchecked) => {
                Harvested::PastEnd { slot, offset, npages: known.npages }
            }
            _ => Harvested::Page { slot, offset },
        }
    }
}

impl Iterator for Harvest<'_> {
    type Item = Harvested;

    #[inline]
    fn next(&mut self) -> Option<Harvested> {
        if self.left == 0 {
            return None;
        }
        let entry = entry_at(self.entries, *self.fetch);
        if entry.flags() & STATE != FLAG_DIRTY {
            self.left = 0;
            return None;
        }
        if mutant::active(Mutant::HandBackBeforeRead) {
            entry.set_flags(FLAG_RESET);
        }
        let (slot, offset) = entry.payload();
        if !mutant::active(Mutant::HandBackBeforeRead) {
            entry.set_flags(FLAG_RESET);
        }
        *self.fetch = self.fetch.wrapping_add(1);
        self.taken += 1;
        self.left -= 1;
        Some(self.classify(SlotId::from_raw(slot), offset))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

impl core::iter::FusedIterator for Harvest<'_> {}
