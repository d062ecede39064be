//! Memslots: the windows of guest-physical memory that dirty offsets are relative to.

use core::fmt;

use crate::Gfn;

/// The name of a memslot as KVM packs it: address space in the upper 16 bits, slot number in the lower.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u32);

impl SlotId {
    /// Slot `id` of address space `as_id`.
    #[must_use]
    pub const fn new(as_id: u16, id: u16) -> Self {
        Self((as_id as u32) << 16 | id as u32)
    }

    /// From the `slot` field of a KVM structure or a ring entry.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The `slot` field of a KVM structure or a ring entry.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The address space: 0, or 1 for x86 system-management mode.
    #[must_use]
    pub const fn as_id(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The slot number within its address space.
    #[must_use]
    pub const fn id(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotId({self})")
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.as_id() == 0 {
            write!(f, "{}", self.id())
        } else {
            write!(f, "{}:{}", self.as_id(), self.id())
        }
    }
}

/// A window of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Memslot {
    /// The slot's name.
    pub id: SlotId,
    /// The first frame.
    pub base: Gfn,
    /// Length in pages; at least 1 and at most [`Memslot::MAX_PAGES`].
    pub npages: u64,
}

impl Memslot {
    /// The most pages a slot may have (`KVM_MEM_MAX_NR_PAGES`).
    pub const MAX_PAGES: u64 = (1 << 31) - 1;

    /// The frame `offset` pages into the slot, or `None` past its end or past the last frame.
    #[must_use]
    pub const fn gfn(&self, offset: u64) -> Option<Gfn> {
        if offset >= self.npages {
            return None;
        }
        match self.base.0.checked_add(offset) {
            Some(gfn) => Some(Gfn(gfn)),
            None => None,
        }
    }

    /// How many pages into the slot `gfn` lies, or `None` if it lies outside.
    #[must_use]
    pub const fn offset(&self, gfn: Gfn) -> Option<u64> {
        if gfn.0 >= self.base.0 && gfn.0 - self.base.0 < self.npages {
            Some(gfn.0 - self.base.0)
        } else {
            None
        }
    }

    /// 64-bit words in a bitmap of the slot (`kvm_dirty_bitmap_bytes` divided by 8).
    #[must_use]
    pub const fn bitmap_words(&self) -> u64 {
        self.npages.div_ceil(64)
    }
}
