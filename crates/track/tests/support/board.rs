//! A guest on the software engine: memory, slots, and a consumer that keeps a copy of it.
#![allow(dead_code, unreachable_pub, reason = "shared by the test programs, each of which uses a part")]
#![allow(unsafe_code, reason = "memslots are given to the engine")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

use ringmark_abi::{MemoryRegion, Vm as _};
use ringmark_dirty::{DirtyPages, Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_engine::{Profile, System, Vm};
use ringmark_track::{
    KernelWrites, Mapping, Memory, MemoryError, Method, MonitorLog, Needs, SlotLog, Tracker, Wish, negotiate,
};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

use super::slot;

/// Guest memory in slots 0, 1, …, with a hole of as many pages behind each.
pub struct Board {
    pub vm: Vm,
    pub method: Method,
    pub memory: GuestMemoryMmap<SlotLog>,
    pub slots: SlotTable,
    pub log: MonitorLog,
    pub page_size: PageSize,
    _blocks: Vec<Block>,
}

/// Zeroed memory, aligned to pages that may be larger than the host's.
struct Block(*mut u8, Layout);

// SAFETY: the pointer is this block's own, and is only kept to be freed.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    fn new(npages: u64, page_size: PageSize) -> Self {
        let bytes = |n| usize::try_from(n).unwrap();
        let layout =
            Layout::from_size_align(bytes(npages * page_size.bytes()), bytes(page_size.bytes())).unwrap();
        // SAFETY: a memslot has at least a page.
        Self(unsafe { alloc_zeroed(layout) }, layout)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody else frees it.
        unsafe { dealloc(self.0, self.1) };
    }
}

impl Board {
    /// Negotiates before anything else, as a monitor does.
    pub fn new(profile: Profile, wish: Wish, npages: &[u64]) -> Arc<Self> {
        let vm = System::new(profile).create_vm();
        // The engine logs page by page, and what a device of the tests writes is the tests' own concern.
        let needs = Needs { kernel_writes: KernelWrites::None, mapping: Mapping::SmallPages };
        let method = negotiate(&vm, wish, needs).unwrap().method;
        let page_size = vm.page_size();
        let mut base = 0;
        let slots = SlotTable::new((0..).zip(npages).map(|(id, &npages)| {
            let slot = Memslot { id: slot(id), base: Gfn(base), npages };
            base += 2 * npages;
            slot
        }))
        .unwrap();
        let log = MonitorLog::new(&slots, page_size);
        let mut blocks = Vec::new();
        let regions = slots.iter().map(|slot| {
            let bitmap = log.slot(slot.id).unwrap().clone();
            let block = Block::new(slot.npages, page_size);
            let builder = MmapRegionBuilder::new_with_bitmap(block.1.size(), bitmap)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: the block is as long as the region and is freed after it.
            let region = unsafe { builder.with_raw_mmap_pointer(block.0) }.build().unwrap();
            blocks.push(block);
            GuestRegionMmap::new(region, GuestAddress(page_size.address(slot.base).unwrap())).unwrap()
        });
        let memory = GuestMemoryMmap::from_regions(regions.collect()).unwrap();
        for (slot, region) in slots.iter().zip(memory.iter()) {
            let region = MemoryRegion {
                slot: slot.id,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
            };
            // SAFETY: the mapping is owned by the board, which outlives every vCPU and the VM of its tests.
            unsafe { vm.set_user_memory_region(&region) }.unwrap();
        }
        Arc::new(Self { vm, method, memory, slots, log, page_size, _blocks: blocks })
    }

    /// A tracker of the board, with the monitor's log as a source.
    pub fn tracker(&self) -> Tracker {
        self.tracker_of(Arc::new(self.vm.clone()))
    }

    pub fn tracker_of(&self, vm: Arc<dyn ringmark_abi::Vm>) -> Tracker {
        let mut tracker = Tracker::new(vm, self.slots.clone(), self.method).unwrap();
        tracker.add_source(Box::new(self.log.source())).unwrap();
        tracker
    }

    pub fn gpa(&self, slot: SlotId, page: u64) -> u64 {
        self.page_size.address(self.slots.get(slot).unwrap().gfn(page).unwrap()).unwrap()
    }

    /// A write of the monitor, which marks itself.
    pub fn monitor_write(&self, slot: SlotId, page: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(self.gpa(slot, page) + 64)).unwrap();
    }

    /// A write of the monitor that nobody marks.
    pub fn unmarked_write(&self, slot: SlotId, page: u64, byte: u8) {
        let address = self.memory.get_host_address(GuestAddress(self.gpa(slot, page))).unwrap();
        // SAFETY: the address is the first byte of a mapped page; no reference to guest memory exists.
        unsafe { address.write_volatile(byte) };
    }

    pub fn image(&self) -> Image {
        Image::of(&self.slots, self.page_size)
    }
}

impl Memory for Board {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_slice(page, GuestAddress(self.gpa(slot, offset))).map_err(|error| MemoryError {
            slot,
            offset,
            error: error.into(),
        })
    }
}

/// What a consumer of epochs has stored: a copy of memory that knows only reported pages.
#[derive(Clone)]
pub struct Image {
    page: usize,
    slots: Vec<(SlotId, Vec<u8>)>,
}

impl Image {
    pub fn of(slots: &SlotTable, page_size: PageSize) -> Self {
        let page = usize::try_from(page_size.bytes()).unwrap();
        let zeros = |slot: &Memslot| vec![0; usize::try_from(slot.npages).unwrap() * page];
        Self { page, slots: slots.iter().map(|slot| (slot.id, zeros(slot))).collect() }
    }

    pub fn capture(&mut self, memory: &dyn Memory, pages: &DirtyPages) {
        for (slot, offset) in pages.iter() {
            let copy = self.page_mut(slot, offset);
            memory.read(slot, offset, copy).unwrap();
        }
    }

    fn page_mut(&mut self, slot: SlotId, offset: u64) -> &mut [u8] {
        let start = usize::try_from(offset).unwrap() * self.page;
        let (_, copy) = self.slots.iter_mut().find(|(id, _)| *id == slot).unwrap();
        &mut copy[start..start + self.page]
    }

    /// The pages that differ from memory.
    pub fn differences(&self, memory: &dyn Memory) -> Vec<(u16, u64)> {
        let mut now = vec![0; self.page];
        let mut found = Vec::new();
        for (slot, copy) in &self.slots {
            for (offset, copy) in (0..).zip(copy.chunks(self.page)) {
                memory.read(*slot, offset, &mut now).unwrap();
                if now != copy {
                    found.push((slot.id(), offset));
                }
            }
        }
        found
    }
}
