//! A VM with its memory, as one object: what keeps a slot's memory alive until the VM is gone.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ringmark_abi::{EnableCap, Errno, MemoryRegion, cap, mem};
use ringmark_dirty::SlotId;

use crate::bench::{Bench, Watch, lock};
use crate::cpu::Cpu;
use crate::facts::ENTRY_BYTES;
use crate::ram::{Backing, Ram};
use crate::target::{Dest, Source, TestVm, Wish};
use crate::verdict::{Must, Stop};

/// A VM under test and its memory.
#[derive(Clone, Debug)]
pub(crate) struct Rig {
    shared: Arc<Shared>,
}

// The VM goes before its memory.
#[derive(Debug)]
pub(crate) struct Shared {
    vm: Box<dyn TestVm>,
    rams: Mutex<Vec<Arc<Ram>>>,
    watch: Arc<Watch>,
    page_bytes: u64,
    values: AtomicU64,
}

/// A memslot with its memory. A copy, so that cases can hold one that no longer exists.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) base: u64,
    pub(crate) npages: u64,
    pub(crate) flags: u32,
    pub(crate) ram: Arc<Ram>,
    pub(crate) page_bytes: u64,
}

impl Slot {
    /// Guest-physical address of page `page`.
    pub(crate) fn gpa(&self, page: u64) -> u64 {
        self.base + page * self.page_bytes
    }

    /// The slot as the kernel takes it.
    pub(crate) fn region(&self) -> MemoryRegion {
        MemoryRegion {
            slot: self.id,
            flags: self.flags,
            guest_phys_addr: self.base,
            memory_size: self.npages * self.page_bytes,
            userspace_addr: self.ram.address(),
        }
    }

    /// The first word of page `page`.
    pub(crate) fn word(&self, page: u64) -> u64 {
        self.ram.read(page * self.page_bytes)
    }

    /// Ring entries for `pages`.
    pub(crate) fn logged(&self, pages: impl IntoIterator<Item = u64>) -> Vec<(u32, u64)> {
        pages.into_iter().map(|page| (self.id.raw(), page)).collect()
    }

    /// Words in a bitmap of the slot.
    pub(crate) fn words(&self) -> usize {
        usize::try_from(self.npages.div_ceil(64)).unwrap_or(usize::MAX)
    }
}

impl Rig {
    pub(crate) fn new(bench: &Bench, wish: Wish) -> Result<Self, Stop> {
        let vm = bench.target().create_vm(wish)?;
        let page_bytes = bench.facts().page_size.bytes();
        let watch = Arc::clone(bench.watch());
        let values = AtomicU64::new(0x5ca1_ab1e_0000_0001);
        Ok(Self { shared: Arc::new(Shared { vm, rams: Mutex::default(), watch, page_bytes, values }) })
    }

    pub(crate) fn vm(&self) -> &dyn TestVm {
        &*self.shared.vm
    }

    /// A value that no page holds yet.
    pub(crate) fn fresh_value(&self) -> u64 {
        self.shared.values.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn page_bytes(&self) -> u64 {
        self.shared.page_bytes
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.shared.watch
    }

    /// The ring capability that this kernel offers, the one with acquire and release first.
    pub(crate) fn ring_cap(&self) -> Result<u32, Stop> {
        for cap in [cap::DIRTY_LOG_RING_ACQ_REL, cap::DIRTY_LOG_RING] {
            if self.vm().check_extension(cap).must("KVM_CHECK_EXTENSION")? > 0 {
                return Ok(cap);
            }
        }
        Err(Stop::Broken("no ring capability though the target has rings".into()))
    }

    /// Enables rings of `bytes`; what the kernel says.
    pub(crate) fn try_ring(&self, bytes: u64) -> Result<Result<(), Errno>, Stop> {
        Ok(self.vm().enable_cap(&EnableCap::new(self.ring_cap()?, bytes)))
    }

    pub(crate) fn enable_ring(&self, entries: u32) -> Result<(), Stop> {
        self.try_ring(u64::from(entries) * ENTRY_BYTES)?.must("enabling the ring")
    }

    pub(crate) fn enable_bitmap(&self) -> Result<(), Stop> {
        self.cap(cap::DIRTY_LOG_RING_WITH_BITMAP, 0).must("enabling the backup bitmap")
    }

    /// `KVM_ENABLE_CAP` with one argument.
    pub(crate) fn cap(&self, cap: u32, arg: u64) -> Result<(), Errno> {
        self.vm().enable_cap(&EnableCap::new(cap, arg))
    }

    /// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` with `arg`.
    pub(crate) fn manual(&self, arg: u64) -> Result<(), Stop> {
        self.cap(cap::MANUAL_DIRTY_LOG_PROTECT2, arg).must("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2")
    }

    /// A slot description with fresh memory; the kernel does not know it yet.
    pub(crate) fn describe(
        &self,
        id: u16,
        page: u64,
        npages: u64,
        flags: u32,
        backing: Backing,
    ) -> Result<Slot, Stop> {
        let page_bytes = self.page_bytes();
        // A page more than the slot has, so that a slot of another part of it can be asked for.
        let ram = Ram::new((npages + 1) * page_bytes, backing)
            .map_err(|error| Stop::Broken(format!("no memory for a guest of {npages} pages: {error}")))?;
        let ram = Arc::new(ram);
        lock(&self.shared.rams).push(Arc::clone(&ram));
        let base = page * page_bytes;
        Ok(Slot { id: SlotId::new(0, id), base, npages, flags, ram, page_bytes })
    }

    /// A new slot `id` of `npages` at guest page `page`.
    pub(crate) fn slot(&self, id: u16, page: u64, npages: u64, flags: u32) -> Result<Slot, Stop> {
        let slot = self.describe(id, page, npages, flags, Backing::Pages)?;
        self.set(&slot.region()).must("creating a memslot")?;
        Ok(slot)
    }

    /// A new slot with logging on.
    pub(crate) fn log_slot(&self, id: u16, page: u64, npages: u64) -> Result<Slot, Stop> {
        self.slot(id, page, npages, mem::LOG_DIRTY_PAGES)
    }

    /// `KVM_SET_USER_MEMORY_REGION`, right or wrong, over memory of this rig.
    #[expect(unsafe_code, reason = "the rig owns the memory that it lends the VM")]
    pub(crate) fn set(&self, region: &MemoryRegion) -> Result<(), Errno> {
        let end = region.userspace_addr.saturating_add(region.memory_size);
        let ours = lock(&self.shared.rams).iter().any(|ram| ram.covers(region.userspace_addr, end));
        if region.memory_size != 0 && !ours {
            return Err(Errno::EFAULT);
        }
        // SAFETY: the range lies in memory of this rig, which is unmapped after the VM and its vCPUs are gone (they
        // hold `shared`, and its fields drop in order).
        unsafe { self.vm().set_region(region) }
    }

    /// Changes a slot's flags.
    pub(crate) fn set_flags(&self, slot: &mut Slot, flags: u32) -> Result<(), Stop> {
        slot.flags = flags;
        self.set(&slot.region()).must("changing a slot's flags")
    }

    /// Moves a slot to guest page `page`.
    pub(crate) fn move_to(&self, slot: &mut Slot, page: u64) -> Result<(), Stop> {
        slot.base = page * self.page_bytes();
        self.set(&slot.region()).must("moving a slot")
    }

    /// Deletes a slot; what the kernel says.
    pub(crate) fn try_delete(&self, slot: &Slot) -> Result<(), Errno> {
        self.set(&MemoryRegion { memory_size: 0, ..slot.region() })
    }

    pub(crate) fn delete(&self, slot: &Slot) -> Result<(), Stop> {
        self.try_delete(slot).must("deleting a slot")
    }

    pub(crate) fn vcpu(&self, id: u32) -> Result<Cpu, Stop> {
        let vcpu = self.vm().create_vcpu(id).must("KVM_CREATE_VCPU")?;
        self.shared.watch.register(vcpu.kicker());
        Ok(Cpu::new(vcpu, self.clone()))
    }

    /// `KVM_GET_DIRTY_LOG`; what the kernel says.
    pub(crate) fn try_get(&self, slot: &Slot) -> Result<Vec<u64>, Errno> {
        let mut words = vec![0; slot.words()];
        self.vm().get_dirty_log(slot.id, Dest::Words(&mut words)).map(|()| words)
    }

    pub(crate) fn get(&self, slot: &Slot) -> Result<Vec<u64>, Stop> {
        self.try_get(slot).must("KVM_GET_DIRTY_LOG")
    }

    /// `KVM_CLEAR_DIRTY_LOG` of `num` pages from `first`, every bit set; what the kernel says.
    pub(crate) fn try_clear(&self, slot: &Slot, first: u64, num: u32) -> Result<(), Errno> {
        let words = vec![u64::MAX; usize::try_from(num.div_ceil(64)).unwrap_or(0)];
        self.vm().clear_dirty_log(slot.id, first, num, Source::Words(&words))
    }

    /// `KVM_RESET_DIRTY_RINGS`.
    pub(crate) fn reset(&self) -> Result<u32, Stop> {
        self.vm().reset(0).must("KVM_RESET_DIRTY_RINGS")
    }
}
