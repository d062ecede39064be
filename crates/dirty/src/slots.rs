//! Memslots: the windows of guest-physical memory that dirty offsets are relative to.

use alloc::vec::Vec;
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
        if self.as_id() == 0 { write!(f, "{}", self.id()) } else { write!(f, "{}:{}", self.as_id(), self.id()) }
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

    /// The frame `offset` pages into the slot, or `None` past its end.
    #[must_use]
    pub const fn gfn(&self, offset: u64) -> Option<Gfn> {
        if offset < self.npages { Some(Gfn(self.base.0 + offset)) } else { None }
    }

    /// How many pages into the slot `gfn` lies, or `None` if it lies outside.
    #[must_use]
    pub const fn offset(&self, gfn: Gfn) -> Option<u64> {
        if gfn.0 >= self.base.0 && gfn.0 - self.base.0 < self.npages { Some(gfn.0 - self.base.0) } else { None }
    }

    /// 64-bit words in a bitmap of the slot (`kvm_dirty_bitmap_bytes` divided by 8).
    #[must_use]
    pub const fn bitmap_words(&self) -> u64 {
        self.npages.div_ceil(64)
    }
}

/// The memslots that entries are checked against: what a dirty ring's `slot` and `offset` may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotTable {
    by_id: Vec<Memslot>,
}

/// Why a set of memslots is not a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotTableError {
    /// A slot without pages, or with more than KVM allows.
    #[error("memslot {0} has {1} pages; a memslot has 1 to 2147483647")]
    Size(SlotId, u64),
    /// A slot that runs past the last frame.
    #[error("memslot {0} runs past the end of guest-physical memory")]
    Wraps(SlotId),
    /// Two slots of one name.
    #[error("memslot {0} is listed twice")]
    Duplicate(SlotId),
    /// Two slots of one address space that share frames.
    #[error("memslots {0} and {1} overlap")]
    Overlap(SlotId, SlotId),
}

impl SlotTable {
    /// A table of `slots`, in any order.
    ///
    /// # Errors
    /// Names the first slot that is empty, too large, past the end, listed twice, or that overlaps another of its
    /// address space: the refusals of `kvm_set_memory_region`.
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
        by_id.sort_unstable_by_key(|s| (s.id.as_id(), s.base));
        for pair in by_id.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            if a.id.as_id() == b.id.as_id() && a.base.0 + a.npages > b.base.0 && a.id != b.id {
                return Err(SlotTableError::Overlap(a.id, b.id));
            }
        }
        by_id.sort_unstable_by_key(|s| s.id);
        if let Some(pair) = by_id.windows(2).find(|p| p[0].id == p[1].id) {
            return Err(SlotTableError::Duplicate(pair[0].id));
        }
        Ok(Self { by_id })
    }

    /// The slot named `id`.
    #[must_use]
    pub fn get(&self, id: SlotId) -> Option<&Memslot> {
        self.by_id.binary_search_by_key(&id, |s| s.id).ok().map(|i| &self.by_id[i])
    }

    /// The slot of address space `as_id` that holds `gfn`, and the offset of `gfn` in it.
    #[must_use]
    pub fn find(&self, as_id: u16, gfn: Gfn) -> Option<(&Memslot, u64)> {
        self.by_id.iter().filter(|s| s.id.as_id() == as_id).find_map(|s| s.offset(gfn).map(|o| (s, o)))
    }

    /// The slots in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Memslot> {
        self.by_id.iter()
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
