//! The memory of a small guest: its slots, one behind the other.

use std::io;

use ringmark_abi::MemoryRegion;
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_track::{Memory, MemoryError};

use crate::{Backing, Pages};

/// Guest memory in slots 0, 1, …, which follow one another without a gap.
#[derive(Debug)]
pub struct Ram {
    page_size: PageSize,
    slots: SlotTable,
    memory: Vec<Pages>,
}

impl Ram {
    /// Slots of `npages` pages each, the first at guest-physical address `base`.
    ///
    /// # Errors
    /// Memory that cannot be had; slots without pages, or more of them than can be numbered.
    pub fn new(base: u64, npages: &[u64], page_size: PageSize, backing: Backing) -> io::Result<Self> {
        let mut next = page_size.gfn(base).0;
        let mut slots = Vec::new();
        let mut memory = Vec::new();
        for (id, &npages) in (0..).zip(npages) {
            slots.push(Memslot { id: SlotId::new(0, id), base: Gfn(next), npages });
            next += npages;
            memory.push(Pages::new(npages.saturating_mul(page_size.bytes()), backing)?);
        }
        let slots = SlotTable::new(slots).map_err(io::Error::other)?;
        Ok(Self { page_size, slots, memory })
    }

    /// The slots.
    #[must_use]
    pub const fn slots(&self) -> &SlotTable {
        &self.slots
    }

    /// The memory of `slot`.
    #[must_use]
    pub fn pages(&self, slot: SlotId) -> Option<&Pages> {
        self.memory.get(usize::from(slot.id())).filter(|_| slot.as_id() == 0)
    }

    /// The slots as the kernel takes them, with the flags `flags`.
    pub fn regions(&self, flags: u32) -> impl Iterator<Item = MemoryRegion> {
        self.slots.iter().zip(&self.memory).map(move |(slot, pages)| MemoryRegion {
            slot: slot.id,
            flags,
            guest_phys_addr: self.page_size.address(slot.base).unwrap_or(u64::MAX),
            memory_size: pages.len(),
            userspace_addr: pages.address(),
        })
    }

    /// The first word of page `page`, counted over all slots.
    #[must_use]
    pub fn word(&self, page: u64) -> Option<u64> {
        let (slot, offset) = self.locate(page)?;
        self.pages(slot)?.read(offset * self.page_size.bytes())
    }

    /// The slot of page `page`, counted over all slots, and the page's place in it.
    #[must_use]
    pub fn locate(&self, page: u64) -> Option<(SlotId, u64)> {
        let first = self.slots.iter().next()?.base.0;
        let (slot, offset) = self.slots.find(0, Gfn(first.checked_add(page)?))?;
        Some((slot.id, offset))
    }
}

impl Memory for Ram {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = offset.checked_mul(self.page_size.bytes());
        bytes.and_then(|at| self.pages(slot)?.copy_out(at, page)).ok_or_else(|| MemoryError {
            slot,
            offset,
            error: "there is no such page".into(),
        })
    }
}
