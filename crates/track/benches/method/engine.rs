//! A guest on the engine, with arm64's rules.
#![allow(unsafe_code, reason = "memslots are given to the engine")]

use std::sync::Arc;

use ringmark_abi::{MemoryRegion, Vm as AbiVm};
use ringmark_dirty::RingMemory;
use ringmark_engine::{Profile, System, Vcpu, Vm};
use ringmark_track::{KernelWrites, Mapping, Method, Needs, Wish, negotiate};
use vm_memory::{GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use super::parts::Stores;
use super::{DATA, PAGE, PAGES};

pub(crate) struct Guest {
    pub(crate) vcpu: Vcpu,
    pub(crate) vm: Vm,
    pub(crate) method: Method,
    pub(crate) memory: GuestRegionMmap<()>,
}

impl Guest {
    pub(crate) fn new(wish: Wish) -> Self {
        let vm = System::new(Profile::arm64()).create_vm();
        let needs = Needs { kernel_writes: KernelWrites::InterruptTables, mapping: Mapping::SmallPages };
        let method = negotiate(&vm, wish, needs).unwrap().method;
        let region = MmapRegion::new((PAGES * PAGE) as usize).unwrap();
        let memory = GuestRegionMmap::new(region, vm_memory::GuestAddress(0)).unwrap();
        let region = MemoryRegion {
            slot: DATA,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.len(),
            userspace_addr: memory.as_ptr().expose_provenance() as u64,
        };
        // SAFETY: the mapping is a field behind VM and vCPU, and so outlives them.
        unsafe { vm.set_user_memory_region(&region) }.unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        Self { vcpu, vm, method, memory }
    }
}

impl Stores for Guest {
    fn vm(&self) -> &dyn AbiVm {
        &self.vm
    }

    fn ring(&self) -> Option<Arc<dyn RingMemory>> {
        self.vcpu.ring_memory()
    }

    fn store(&mut self, count: u64, stride: u64) {
        let mut running = self.vcpu.enter().unwrap();
        for page in 0..count {
            running.store(page * stride * PAGE, &1_u64.to_ne_bytes()).unwrap();
        }
    }
}
