//! A virtual machine of the engine, small enough to be made a million times.
#![allow(unsafe_code, reason = "a memslot is given to the engine")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringmark_abi::{MemoryRegion, Vm as _};
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_engine::{Profile, System, Vcpu, Vm};

use crate::{KernelWrites, Mapping, Method, MonitorLog, Needs, Wish, negotiate};

/// Words in a page; the first is what the writers change and what is compared.
const WORDS: usize = 512;

#[repr(align(4096))]
struct Page([AtomicU64; WORDS]);

/// Pages of guest memory, all in slot 0.
pub(super) struct Ram(Box<[Page]>);

impl Ram {
    pub(super) fn new(pages: u64) -> Arc<Self> {
        Arc::new(Self((0..pages).map(|_| Page([const { AtomicU64::new(0) }; WORDS])).collect()))
    }

    pub(super) fn pages(&self) -> u64 {
        self.0.len() as u64
    }

    fn word(&self, page: u64) -> &AtomicU64 {
        &self.0[usize::try_from(page).unwrap_or(usize::MAX)].0[0]
    }

    /// What stands in `page`.
    pub(super) fn get(&self, page: u64) -> u64 {
        self.word(page).load(Ordering::Relaxed)
    }

    /// A write that goes past every log.
    pub(super) fn set(&self, page: u64, value: u64) {
        self.word(page).store(value, Ordering::Relaxed);
    }

    /// All of it.
    pub(super) fn copy(&self) -> Vec<u64> {
        (0..self.pages()).map(|page| self.get(page)).collect()
    }
}

/// The one memslot.
pub(super) const SLOT: SlotId = SlotId::new(0, 0);

/// A VM over `Ram`, as a monitor makes it, before its first vCPU.
pub(super) struct Board {
    pub(super) vm: Vm,
    pub(super) method: Method,
    pub(super) ram: Arc<Ram>,
    pub(super) log: MonitorLog,
    pub(super) slots: SlotTable,
    pub(super) page_size: PageSize,
}

impl Board {
    pub(super) fn new(profile: &Profile, wish: Wish, ram: &Arc<Ram>) -> Self {
        let vm = System::new(profile.clone()).create_vm();
        let kernel_writes = match profile.arch() {
            ringmark_engine::Arch::X86 => KernelWrites::None,
            ringmark_engine::Arch::Arm64 => KernelWrites::InterruptTables,
        };
        let needs = Needs { kernel_writes, mapping: Mapping::HugePages };
        let method = match negotiate(&vm, wish, needs) {
            Ok(chosen) => chosen.method,
            Err(error) => panic!("{error}"),
        };
        let page_size = vm.page_size();
        let slot = Memslot { id: SLOT, base: Gfn(0), npages: ram.pages() };
        let slots = SlotTable::new([slot]).unwrap_or_else(|error| panic!("{error}"));
        let region = MemoryRegion {
            slot: SLOT,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: ram.pages() * page_size.bytes(),
            userspace_addr: ram.0.as_ptr().expose_provenance() as u64,
        };
        (0..ram.pages()).for_each(|page| ram.set(page, 0));
        // SAFETY: the memory is shared by whoever holds the VM, consists of atomics, and is not freed before `self`.
        let created = unsafe { vm.set_user_memory_region(&region) };
        assert_eq!(created, Ok(()));
        let log = MonitorLog::new(&slots, page_size);
        Self { vm, method, ram: Arc::clone(ram), log, slots, page_size }
    }

    pub(super) fn vcpu(&self, id: u32) -> Vcpu {
        self.vm.create_vcpu(id).unwrap_or_else(|errno| panic!("{errno}"))
    }

    pub(super) const fn gpa(&self, page: u64) -> u64 {
        page * self.page_size.bytes()
    }
}
