//! A guest on `/dev/kvm` of x86-64, in ring 3: on some hosts privileged guest code is emulated.
#![allow(unsafe_code, reason = "memslots are given to the kernel")]

use std::sync::Arc;

use ringmark_abi::{MemoryRegion, Vm as AbiVm};
use ringmark_dirty::{RingMemory, SlotId};
use ringmark_kvm::bindings::{KVM_MP_STATE_RUNNABLE, kvm_regs, kvm_segment};
use ringmark_kvm::{Exit, System, Vcpu, Vm};
use ringmark_track::{KernelWrites, Mapping, Needs, Wish, negotiate};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::parts::Stores;
use super::{DATA, PAGE, PAGES};

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PROGRAM: u64 = 0x8000;
const START: u64 = 0x1000_0000;

/// `mov [rdi],rax; add rdi,rsi; dec rcx; jnz -11; out dx,al`
const CODE: [u8; 12] = [0x48, 0x89, 0x07, 0x48, 0x01, 0xf7, 0x48, 0xff, 0xc9, 0x75, 0xf5, 0xee];

pub(crate) struct Guest {
    vcpu: Vcpu,
    vm: Vm,
    _memory: GuestMemoryMmap<()>,
}

impl Guest {
    pub(crate) fn new(system: &System, wish: Wish) -> Self {
        let vm = system.create_vm().unwrap();
        let needs = Needs { kernel_writes: KernelWrites::None, mapping: Mapping::HugePages };
        negotiate(&vm, wish, needs).unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        vm.set_identity_map_address(0xfffb_c000).unwrap();
        vm.create_irqchip().unwrap();
        let ranges =
            [(GuestAddress(0), (16 * PAGE) as usize), (GuestAddress(START), (PAGES * PAGE) as usize)];
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        for (slot, region) in [SlotId::new(0, 0), DATA].into_iter().zip(memory.iter()) {
            let region = MemoryRegion {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr().expose_provenance() as u64,
            };
            // SAFETY: the mapping is a field behind VM and vCPU, and so outlives them.
            unsafe { vm.set_user_memory_region(&region) }.unwrap();
        }
        let write = |at, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        // Present, writable, user, accessed, dirty: a walk that set the last two would dirty the tables.
        write(PML4, PDPT | 0x67);
        write(PDPT, PD | 0x67);
        (0..512).for_each(|i| write(PD + i * 8, i << 21 | 0xe7));
        memory.write_slice(&CODE, GuestAddress(PROGRAM)).unwrap();
        Self { vcpu: boot(system, &vm), vm, _memory: memory }
    }
}

/// A vCPU in ring 3 of long mode.
fn boot(system: &System, vm: &Vm) -> Vcpu {
    let mut vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_cpuid(&system.supported_cpuid().unwrap()).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x2b,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: 0x33, type_: 11, db: 0, l: 1, ..flat };
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = flat;
    }
    sregs.cr3 = PML4;
    sregs.cr4 |= 0x20;
    sregs.cr0 = 0x8001_0033;
    sregs.efer |= 0x500;
    vcpu.set_sregs(&sregs).unwrap();
    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE).unwrap();
    vcpu
}

impl Stores for Guest {
    fn vm(&self) -> &dyn AbiVm {
        &self.vm
    }

    fn ring(&self) -> Option<Arc<dyn RingMemory>> {
        self.vcpu.ring_memory()
    }

    fn store(&mut self, count: u64, stride: u64) {
        let regs = kvm_regs {
            rip: PROGRAM,
            rflags: 0x3002,
            rax: 1,
            rcx: count,
            rdx: 0x80,
            rdi: START,
            rsi: stride * PAGE,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).unwrap();
        loop {
            match self.vcpu.run().unwrap() {
                Exit::IoOut { .. } => break,
                Exit::Interrupted => {}
                other => panic!("the guest left its program: {other:?}"),
            }
        }
        assert_eq!(self.vcpu.complete_pending(), Ok(Exit::Interrupted));
    }
}
