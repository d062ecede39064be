//! The memslots of a VM: an immutable set, replaced whole by every change.

use std::sync::{Arc, OnceLock};

use ringmark_abi::{MemoryRegion, mem};
use ringmark_dirty::{AtomicBitmap, Gfn, Memslot, PageSize, SlotId};

use crate::{Profile, memory::HostAddress, strict::Truth};

/// One memslot (`struct kvm_memory_slot`); changing it means publishing another one that shares its page state.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// Name, first frame and length.
    pub(crate) window: Memslot,
    /// [`mem`] flags.
    pub(crate) flags: u32,
    /// Where the memory is in this process.
    pub(crate) userspace_addr: u64,
    /// The memory, as the module that copies wants it.
    memory: HostAddress,
    /// `dirty_bitmap`: the stand-alone or the backup bitmap.
    pub(crate) bitmap: Option<Arc<AtomicBitmap>>,
    /// Per page: a guest store does not fault. The page tables, as far as dirty tracking sees them.
    pub(crate) writable: Arc<AtomicBitmap>,
    /// Per page: a guest load does not fault. Only where the profile makes read faults matter.
    pub(crate) present: Option<Arc<AtomicBitmap>>,
    /// What strict mode knows of the pages.
    pub(crate) truth: Arc<OnceLock<Truth>>,
}

impl Slot {
    /// A new slot, nothing mapped, no bitmap.
    pub(crate) fn new(
        region: &MemoryRegion,
        window: Memslot,
        memory: HostAddress,
        profile: &Profile,
    ) -> Self {
        Self {
            window,
            flags: region.flags,
            userspace_addr: region.userspace_addr,
            memory,
            bitmap: None,
            writable: Arc::new(AtomicBitmap::new(window.npages)),
            present: profile.read_fault_logs.then(|| Arc::new(AtomicBitmap::new(window.npages))),
            truth: Arc::default(),
        }
    }

    pub(crate) const fn id(&self) -> SlotId {
        self.window.id
    }

    pub(crate) const fn npages(&self) -> u64 {
        self.window.npages
    }

    pub(crate) const fn is_logging(&self) -> bool {
        self.flags & mem::LOG_DIRTY_PAGES != 0
    }

    pub(crate) const fn is_readonly(&self) -> bool {
        self.flags & mem::READONLY != 0
    }

    /// The first byte of the page `offset` pages into the slot.
    pub(crate) fn page(&self, offset: u64, size: PageSize) -> HostAddress {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "below the slot's length, which the address space holds"
        )]
        self.memory.add((offset << size.shift()) as usize)
    }

    /// The slot as a caller would describe it again.
    pub(crate) fn region(&self, size: PageSize) -> MemoryRegion {
        MemoryRegion {
            slot: self.window.id,
            flags: self.flags,
            guest_phys_addr: self.window.base.0 << size.shift(),
            memory_size: self.window.npages << size.shift(),
            userspace_addr: self.userspace_addr,
        }
    }
}

/// All memslots (`struct kvm_memslots`, of every address space).
#[derive(Clone, Debug)]
pub(crate) struct Memslots {
    spaces: Vec<Space>,
}

#[derive(Clone, Debug, Default)]
struct Space {
    by_id: Vec<Arc<Slot>>,
    by_gfn: Vec<Arc<Slot>>,
}

impl Memslots {
    pub(crate) fn new(address_spaces: u32) -> Self {
        Self { spaces: (0..address_spaces).map(|_| Space::default()).collect() }
    }

    pub(crate) fn get(&self, id: SlotId) -> Option<&Arc<Slot>> {
        let space = self.spaces.get(usize::from(id.as_id()))?;
        space.by_id.binary_search_by_key(&id, |slot| slot.id()).ok().map(|at| &space.by_id[at])
    }

    /// The slot of address space `as_id` that holds `gfn`, and how many pages in.
    pub(crate) fn find(&self, as_id: u16, gfn: u64) -> Option<(&Arc<Slot>, u64)> {
        let space = self.spaces.get(usize::from(as_id))?;
        let after = space.by_gfn.partition_point(|slot| slot.window.base.0 <= gfn);
        let slot = &space.by_gfn[after.checked_sub(1)?];
        slot.window.offset(Gfn(gfn)).map(|offset| (slot, offset))
    }

    /// Whether a slot other than `window`'s own shares frames with it.
    pub(crate) fn overlaps(&self, window: &Memslot) -> bool {
        let (start, end) = (window.base.0, window.base.0 + window.npages);
        self.spaces.get(usize::from(window.id.as_id())).is_some_and(|space| {
            space.by_gfn.iter().any(|slot| {
                let other = &slot.window;
                other.id != window.id && other.base.0 < end && start < other.base.0 + other.npages
            })
        })
    }

    /// The set with `slot` in place of the one of its name, if any.
    pub(crate) fn with(&self, slot: Slot) -> Self {
        let mut set = self.without(slot.id());
        let slot = Arc::new(slot);
        if let Some(space) = set.spaces.get_mut(usize::from(slot.id().as_id())) {
            let at = space.by_id.partition_point(|other| other.id() < slot.id());
            space.by_id.insert(at, Arc::clone(&slot));
            let at = space.by_gfn.partition_point(|other| other.window.base < slot.window.base);
            space.by_gfn.insert(at, slot);
        }
        set
    }

    /// The set without slot `id`.
    pub(crate) fn without(&self, id: SlotId) -> Self {
        let mut set = self.clone();
        if let Some(space) = set.spaces.get_mut(usize::from(id.as_id())) {
            space.by_id.retain(|slot| slot.id() != id);
            space.by_gfn.retain(|slot| slot.id() != id);
        }
        set
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.spaces.iter().flat_map(|space| &space.by_id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}
