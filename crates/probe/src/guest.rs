//! A VM of a few memslots, on the host's KVM.

#![allow(unsafe_code, reason = "memslots are given to the kernel")]

#[cfg_attr(target_arch = "x86_64", path = "guest/x86.rs")]
#[cfg_attr(target_arch = "aarch64", path = "guest/arm64.rs")]
pub(crate) mod arch;

use std::sync::Arc;

use ringmark_abi::{EnableCap, Errno, MemoryRegion, Vm as _, cap, mem};
use ringmark_dirty::PageSize;
use ringmark_dirty::SlotId;
use ringmark_kvm::{System, Vm};
use ringmark_track::{Chosen, KernelWrites, Mapping, Needs, Wish, negotiate};

use crate::error::During;
use crate::{Backing, Pages, ProbeError, Processor, Ram};

/// What the kernel lets guest code do, and, on some hosts, who executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// User mode: ring 3 or EL0.
    User,
    /// Kernel mode: ring 0 or EL1. A paravirtual KVM emulates it.
    Kernel,
}

/// What a vCPU does to the guest's pages, which are counted over all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Stores `value` to the first word of each of `pages` pages from `first` on, then is done.
    Sweep {
        /// The first page.
        first: u64,
        /// How many.
        pages: u64,
        /// What is stored.
        value: u64,
    },
    /// Stores to the first words of random pages, for ever.
    Scatter {
        /// The first page of those it stores to.
        first: u64,
        /// How many there are: a power of two, else the next smaller one.
        pages: u64,
        /// Where the sequence begins.
        seed: u64,
    },
}

/// A small guest has no device, and its memory may not be mapped by huge pages ([`Backing::Small`]).
const NEEDS: Needs = Needs { kernel_writes: KernelWrites::None, mapping: Mapping::SmallPages };

/// Knuth's generator of random numbers (MMIX), which both architectures' loops step.
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

/// The mask that keeps a page's number below the largest power of two in `pages`.
fn mask(pages: u64) -> u64 {
    pages.checked_ilog2().map_or(0, |bits| (1 << bits) - 1)
}

/// A small VM. Its memory lives until the last of its [`Processor`]s and handles is gone.
#[derive(Debug)]
pub struct Guest {
    system: System,
    shared: Arc<Shared>,
}

/// The VM goes before its memory: fields are dropped in order.
#[derive(Debug)]
pub(crate) struct Shared {
    vm: Vm,
    ram: Ram,
    #[expect(dead_code, reason = "kept for as long as the VM may read it")]
    program: Pages,
}

impl Guest {
    /// A guest whose slots have `npages` pages each, tracked as `wish` says; no slot is logged yet.
    ///
    /// # Errors
    /// Where the host cannot make it, or cannot track it so.
    pub fn new(system: &System, wish: Wish, npages: &[u64]) -> Result<(Self, Chosen), ProbeError> {
        let vm = system.create_vm().during("KVM_CREATE_VM")?;
        let chosen = negotiate(&vm, wish, NEEDS)?;
        Ok((Self::of(system, vm, npages, Backing::Small)?, chosen))
    }

    /// A guest with a ring and no bitmap behind it, whatever the host's architecture needs, over memory of huge pages.
    pub(crate) fn with_ring_alone(system: &System, entries: u32, npages: &[u64]) -> Result<Self, ProbeError> {
        let vm = system.create_vm().during("KVM_CREATE_VM")?;
        let bytes = u64::from(entries) * size_of::<ringmark_dirty::Entry>() as u64;
        if vm.check_extension(cap::DIRTY_LOG_RING_ACQ_REL).during("KVM_CHECK_EXTENSION")? < bytes {
            return Err(ProbeError::NoRing);
        }
        let enable = EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, bytes);
        vm.enable_cap(&enable).during("KVM_ENABLE_CAP")?;
        Self::of(system, vm, npages, Backing::Huge)
    }

    fn of(system: &System, vm: Vm, npages: &[u64], backing: Backing) -> Result<Self, ProbeError> {
        arch::prepare(&vm)?;
        let program = arch::program(system.page_size())?;
        let ram = Ram::new(arch::DATA, npages, system.page_size(), backing)?;
        let region = MemoryRegion {
            slot: arch::PROGRAM_SLOT,
            flags: 0,
            guest_phys_addr: arch::PROGRAM,
            memory_size: program.len(),
            userspace_addr: program.address(),
        };
        let shared = Shared { vm, ram, program };
        // SAFETY: the memory is owned by what is made here, which drops the VM first and is kept by every vCPU.
        unsafe { shared.vm.set_user_memory_region(&region) }.during("KVM_SET_USER_MEMORY_REGION")?;
        let guest = Self { system: system.clone(), shared: Arc::new(shared) };
        guest.attach().during("KVM_SET_USER_MEMORY_REGION")?;
        Ok(guest)
    }

    fn attach(&self) -> Result<(), Errno> {
        let Shared { vm, ram, .. } = &*self.shared;
        // SAFETY: as for the program's slot.
        ram.regions(0).try_for_each(|region| unsafe { vm.set_user_memory_region(&region) })
    }

    /// Deletes every slot and makes it anew over the same memory; none is logged afterwards. No vCPU may run.
    ///
    /// # Errors
    /// What `KVM_SET_USER_MEMORY_REGION` gives; the guest is of no use then.
    pub fn recreate_slots(&self) -> Result<(), Errno> {
        let Shared { vm, ram, .. } = &*self.shared;
        for region in ram.regions(0) {
            // SAFETY: a deleted slot needs no memory.
            unsafe { vm.set_user_memory_region(&MemoryRegion { memory_size: 0, ..region }) }?;
        }
        self.attach()
    }

    /// Switches the log of every slot on, as [`Tracker::arm`](ringmark_track::Tracker::arm) does for whoever has one.
    ///
    /// # Errors
    /// What `KVM_SET_USER_MEMORY_REGION` gives.
    pub fn start_logging(&self) -> Result<(), Errno> {
        let Shared { vm, ram, .. } = &*self.shared;
        ram.slots().iter().try_for_each(|slot| vm.set_memslot_flags(slot.id, mem::LOG_DIRTY_PAGES))
    }

    /// The VM, for whoever tracks it. It keeps the guest's memory alive.
    #[must_use]
    pub fn vm(&self) -> Arc<dyn ringmark_abi::Vm> {
        Arc::clone(&self.shared) as _
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.shared.ram
    }

    /// vCPU `id`, at no program yet.
    ///
    /// # Errors
    /// Where the host cannot make it.
    pub fn processor(&self, id: u32, privilege: Privilege) -> Result<Processor, ProbeError> {
        let mut vcpu = self.shared.vm.create_vcpu(id)?;
        arch::prepare_vcpu(&self.system, &mut vcpu, privilege)?;
        Ok(Processor::new(vcpu, privilege, Arc::clone(&self.shared)))
    }
}

impl Shared {
    pub(crate) const fn ram(&self) -> &Ram {
        &self.ram
    }
}

impl ringmark_abi::Vm for Shared {
    fn page_size(&self) -> PageSize {
        self.vm.page_size()
    }

    fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        self.vm.check_extension(cap)
    }

    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        self.vm.enable_cap(cap)
    }

    unsafe fn set_user_memory_region(&self, region: &MemoryRegion) -> Result<(), Errno> {
        // SAFETY: what this function asks of its caller is what that one asks.
        unsafe { self.vm.set_user_memory_region(region) }
    }

    fn set_memslot_flags(&self, slot: SlotId, flags: u32) -> Result<(), Errno> {
        self.vm.set_memslot_flags(slot, flags)
    }

    fn get_dirty_log(&self, slot: SlotId, bitmap: &mut [u64]) -> Result<(), Errno> {
        self.vm.get_dirty_log(slot, bitmap)
    }

    fn clear_dirty_log(&self, slot: SlotId, first: u64, pages: u32, bitmap: &[u64]) -> Result<(), Errno> {
        self.vm.clear_dirty_log(slot, first, pages, bitmap)
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.vm.reset_dirty_rings()
    }
}
