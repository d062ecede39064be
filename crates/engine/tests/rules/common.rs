//! A VM with memory, and a plain reader of rings: what the tests stand on.
#![allow(unreachable_pub, reason = "everything here is for the other test files")]
#![allow(unsafe_code, reason = "tests own the memory that they give to memslots")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    sync::Arc,
};

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm as _, cap, mem};
use ringmark_dirty::{FLAG_DIRTY, FLAG_RESET, RingMemory, SlotId};
use ringmark_engine::{Exit, Profile, System, Vcpu, Vm};

pub const PAGE: u64 = 4096;
pub const LOG: u32 = mem::LOG_DIRTY_PAGES;
pub const RO: u32 = mem::READONLY;

/// Page-aligned memory of the test's own.
#[derive(Debug)]
pub struct Ram {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: the memory is only reached through volatile accesses of this module and of the engine.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    pub fn new(pages: u64) -> Self {
        let layout = Layout::from_size_align(usize::try_from(pages * PAGE).unwrap(), 4096).unwrap();
        // SAFETY: the layout is not empty in any test.
        let start = unsafe { alloc_zeroed(layout) };
        assert!(!start.is_null());
        start.expose_provenance();
        Self { start, layout }
    }

    pub fn address(&self) -> u64 {
        self.start.addr() as u64
    }

    pub fn read(&self, page: u64, word: u64) -> u64 {
        let at = usize::try_from(page * PAGE + word * 8).unwrap();
        assert!(at + 8 <= self.layout.size());
        // SAFETY: in range by the assertion, aligned because a page is.
        unsafe { self.start.add(at).cast::<u64>().read_volatile() }
    }

    pub fn write(&self, page: u64, word: u64, value: u64) {
        let at = usize::try_from(page * PAGE + word * 8).unwrap();
        assert!(at + 8 <= self.layout.size());
        // SAFETY: in range by the assertion, aligned because a page is.
        unsafe { self.start.add(at).cast::<u64>().write_volatile(value) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start, self.layout) }
    }
}

/// A VM and the memory of its slots.
pub struct Rig {
    pub vm: Vm,
    /// Dropped after `vm`.
    pub rams: Vec<Arc<Ram>>,
}

pub fn slot(id: u16) -> SlotId {
    SlotId::new(0, id)
}

pub fn gpa(page: u64) -> u64 {
    page * PAGE
}

impl Rig {
    pub fn new(profile: Profile) -> Self {
        Self { vm: System::new(profile).create_vm(), rams: Vec::new() }
    }

    /// With rings of `bytes`.
    pub fn ring(profile: Profile, bytes: u64) -> Self {
        let rig = Self::new(profile);
        rig.enable(cap::DIRTY_LOG_RING_ACQ_REL, bytes).unwrap();
        rig
    }

    /// arm64 with rings of `bytes` and the backup bitmap.
    pub fn ring_with_bitmap(bytes: u64) -> Self {
        let rig = Self::ring(Profile::arm64(), bytes);
        rig.enable(cap::DIRTY_LOG_RING_WITH_BITMAP, 0).unwrap();
        rig
    }

    pub fn enable(&self, cap: u32, arg: u64) -> Result<(), Errno> {
        self.vm.enable_cap(&EnableCap::new(cap, arg))
    }

    pub fn manual(&self, value: u64) {
        self.enable(cap::MANUAL_DIRTY_LOG_PROTECT2, value).unwrap();
    }

    /// Adds a slot of `pages` pages from guest page `first`, with memory of its own.
    pub fn add(&mut self, id: u16, first: u64, pages: u64, flags: u32) -> Arc<Ram> {
        let ram = Arc::new(Ram::new(pages));
        self.rams.push(Arc::clone(&ram));
        self.set(&region(id, first, pages, flags, &ram)).unwrap();
        ram
    }

    pub fn set(&self, region: &MemoryRegion) -> Result<(), Errno> {
        // SAFETY: every test keeps the memory of its slots in `rams` or alive otherwise, or expects a refusal.
        unsafe { self.vm.set_user_memory_region(region) }
    }

    pub fn flags(&self, id: u16, flags: u32) {
        self.vm.set_memslot_flags(slot(id), flags).unwrap();
    }

    pub fn delete(&self, id: u16) -> Result<(), Errno> {
        self.set(&MemoryRegion {
            slot: slot(id),
            flags: 0,
            guest_phys_addr: 0,
            memory_size: 0,
            userspace_addr: 0,
        })
    }

    /// The dirty pages of a slot that `KVM_GET_DIRTY_LOG` reports.
    pub fn get(&self, id: u16) -> Result<Vec<u64>, Errno> {
        let pages = self.vm.slot_table().get(slot(id)).map_or(64, |slot| slot.npages);
        let mut words = vec![0; usize::try_from(pages.div_ceil(64)).unwrap()];
        self.vm.get_dirty_log(slot(id), &mut words)?;
        Ok((0..words.len() as u64 * 64).filter(|&i| words[(i / 64) as usize] >> (i % 64) & 1 != 0).collect())
    }

    pub fn clear(&self, id: u16, first: u64, num: u32, words: &[u64]) -> Result<(), Errno> {
        self.vm.clear_dirty_log(slot(id), first, num, words)
    }

    pub fn reset(&self) -> u32 {
        self.vm.reset_dirty_rings().unwrap()
    }
}

pub fn region(id: u16, first: u64, pages: u64, flags: u32, ram: &Ram) -> MemoryRegion {
    MemoryRegion {
        slot: slot(id),
        flags,
        guest_phys_addr: first * PAGE,
        memory_size: pages * PAGE,
        userspace_addr: ram.address(),
    }
}

/// Stores one word in each of `pages`, in one run.
pub fn touch(vcpu: &mut Vcpu, pages: impl IntoIterator<Item = u64>) -> Result<(), Exit> {
    let mut running = vcpu.enter()?;
    for page in pages {
        running.store(gpa(page), &(page + 1).to_ne_bytes())?;
    }
    Ok(())
}

/// A reader of one ring, without any of the library's checks.
pub struct Reader {
    pub ring: Arc<dyn RingMemory>,
    pub fetch: u32,
}

impl Reader {
    pub fn new(vcpu: &Vcpu) -> Self {
        Self { ring: vcpu.ring_memory().unwrap(), fetch: 0 }
    }

    pub fn entry(&self, index: u32) -> &ringmark_dirty::Entry {
        let entries = self.ring.entries();
        &entries[index as usize % entries.len()]
    }

    /// The offsets that could be harvested now, with their slots.
    pub fn pending(&self) -> Vec<(u32, u64)> {
        let size = u32::try_from(self.ring.entries().len()).unwrap();
        (0..size)
            .map(|i| self.entry(self.fetch.wrapping_add(i)))
            .take_while(|entry| entry.flags() & (FLAG_DIRTY | FLAG_RESET) == FLAG_DIRTY)
            .map(ringmark_dirty::Entry::payload)
            .collect()
    }

    /// Offsets alone.
    pub fn offsets(&self) -> Vec<u64> {
        self.pending().into_iter().map(|(_, offset)| offset).collect()
    }

    pub fn harvest(&mut self, most: usize) -> Vec<(u32, u64)> {
        let taken: Vec<_> = self.pending().into_iter().take(most).collect();
        for _ in &taken {
            self.entry(self.fetch).set_flags(FLAG_RESET);
            self.fetch = self.fetch.wrapping_add(1);
        }
        taken
    }

    pub fn harvest_all(&mut self) -> Vec<(u32, u64)> {
        self.harvest(usize::MAX)
    }
}
