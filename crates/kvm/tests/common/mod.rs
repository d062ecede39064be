//! A guest in ring 3: its memory, its page tables, its programs.
//!
//! Programs run at CPL 3 with IOPL 3 in long mode, identity-mapped by 2 MiB pages whose accessed and dirty bits are
//! set beforehand: privileged code is emulated on some hosts, and a walk that set those bits would dirty the tables.

#![allow(unsafe_code, reason = "guest memory")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

mod memory;

use std::ptr;

pub use memory::*;
use ringmark_abi::{EnableCap, MemoryRegion, Vm as _, cap, mem};
use ringmark_dirty::{SlotId, SlotTable};
use ringmark_kvm::bindings::{KVM_MP_STATE_RUNNABLE, kvm_regs, kvm_segment};
use ringmark_kvm::{Exit, System, Vcpu, Vm};

pub const PAGE: u64 = 4096;
/// Where data slots go.
pub const DATA: u64 = 0x1000_0000;
/// The port by which a program says that it is done.
pub const DONE: u16 = 0x10;
/// The port `INSB` reads: one that no device in the kernel answers.
pub const INPUT: u16 = 0x330;

const LOW: SlotId = SlotId::new(0, 0);
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;

/// Present, writable, user, accessed, dirty.
const TABLE: u64 = 0x67;
/// The same, and a large page.
const LARGE: u64 = 0xe7;

/// Stores rax to the first word of rcx pages from rdi on, rsi bytes apart, then says `DONE`.
///
/// `mov [rdi],rax; add rdi,rsi; dec rcx; jnz -11; out DONE,al; jmp -2`
pub const TOUCH: (u64, &[u8]) =
    (0x8000, &[0x48, 0x89, 0x07, 0x48, 0x01, 0xf7, 0x48, 0xff, 0xc9, 0x75, 0xf5, 0xe6, 0x10, 0xeb, 0xfe]);
/// Does nothing for ever: `jmp -2`.
pub const SPIN: (u64, &[u8]) = (0x8100, &[0xeb, 0xfe]);
/// Counts in the word at rdi for ever: `inc qword [rdi]; jmp -5`.
pub const COUNT: (u64, &[u8]) = (0x8200, &[0x48, 0xff, 0x07, 0xeb, 0xfb]);
/// Reads a byte from port dx to the address in rdi, then says `DONE`: `insb; out DONE,al; jmp -2`.
pub const INSB: (u64, &[u8]) = (0x8300, &[0x6c, 0xe6, 0x10, 0xeb, 0xfe]);
/// Says `DONE` for ever: `out DONE,al; jmp -4`.
pub const CALL: (u64, &[u8]) = (0x8400, &[0xe6, 0x10, 0xeb, 0xfc]);

/// A VM with a PC's interrupt controllers and timer, and the programs above in memslot 0, which is not logged.
///
/// vCPUs are the caller's and must be dropped first.
#[derive(Debug)]
pub struct Guest {
    pub vm: Vm,
    pub slots: Vec<(MemoryRegion, Memory)>,
    system: System,
}

impl Guest {
    /// With a ring of `entries` entries, or none.
    pub fn new(system: &System, entries: u32) -> Self {
        let vm = system.create_vm().unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        vm.set_identity_map_address(0xfffb_c000).unwrap();
        vm.create_irqchip().unwrap();
        vm.create_pit2().unwrap();
        if entries > 0 {
            vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, u64::from(entries) * 16)).unwrap();
        }
        let mut guest = Self { vm, slots: Vec::new(), system: system.clone() };
        guest.add_slot(LOW.id(), 0, 0x10, 0);
        let low = guest.memory(LOW.id());
        low.write(PML4, PDPT | TABLE);
        low.write(PDPT, PD | TABLE);
        for i in 0..512 {
            low.write(PD + i * 8, i << 21 | LARGE);
        }
        for (address, code) in [TOUCH, SPIN, COUNT, INSB, CALL] {
            low.copy_in(address, code);
        }
        guest
    }

    pub fn add_slot(&mut self, slot: u16, gpa: u64, pages: u64, flags: u32) {
        let memory = Memory::new(pages * PAGE);
        let region = MemoryRegion {
            slot: SlotId::new(0, slot),
            flags,
            guest_phys_addr: gpa,
            memory_size: memory.len(),
            userspace_addr: memory.address(),
        };
        // SAFETY: the memory lives in `self.slots`, which is dropped after `self.vm` and, by agreement, the vCPUs.
        unsafe { self.vm.set_user_memory_region(&region) }.unwrap();
        self.slots.push((region, memory));
    }

    /// A logged data slot of `pages` pages at [`DATA`].
    pub fn add_logged(&mut self, slot: u16, pages: u64) {
        self.add_slot(slot, DATA, pages, mem::LOG_DIRTY_PAGES);
    }

    pub fn memory(&self, slot: u16) -> &Memory {
        &self.slots.iter().find(|(region, _)| region.slot.id() == slot).unwrap().1
    }

    /// The memslots as a table to harvest with.
    pub fn table(&self) -> SlotTable {
        let page_size = self.vm.page_size();
        SlotTable::new(self.slots.iter().map(|(region, _)| ringmark_dirty::Memslot {
            id: region.slot,
            base: page_size.gfn(region.guest_phys_addr),
            npages: page_size.pages_in(region.memory_size),
        }))
        .unwrap()
    }

    /// A vCPU in long mode at CPL 3.
    pub fn vcpu(&self, id: u32) -> Vcpu {
        let mut vcpu = self.vm.create_vcpu(id).unwrap();
        vcpu.set_cpuid(&self.system.supported_cpuid().unwrap()).unwrap();
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
        sregs.cr4 |= 0x20 | 0x600; // PAE, OSFXSR, OSXMMEXCPT
        sregs.cr0 = 0x8001_0033; // PG, WP, NE, ET, MP, PE
        sregs.efer |= 0x500; // LMA, LME
        vcpu.set_sregs(&sregs).unwrap();
        vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE).unwrap();
        vcpu
    }
}

/// Sets a vCPU to the start of `program`.
pub fn start(vcpu: &mut Vcpu, program: (u64, &[u8]), regs: kvm_regs) {
    assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted), "the last access is finished");
    vcpu.set_regs(&kvm_regs { rip: program.0, rflags: 0x3002, ..regs }).unwrap();
}

/// The arguments of `TOUCH` for `pages` pages from `gpa` on.
pub fn touching(gpa: u64, pages: u64, value: u64) -> kvm_regs {
    kvm_regs { rdi: gpa, rsi: PAGE, rcx: pages, rax: value, ..Default::default() }
}

/// Runs a program to its end, calling `full` whenever the ring is full; the number of those exits.
pub fn run_through(vcpu: &mut Vcpu, mut full: impl FnMut()) -> u32 {
    let mut times = 0;
    loop {
        match vcpu.run().unwrap() {
            Exit::IoOut { port: DONE, .. } => return times,
            Exit::DirtyRingFull => {
                times += 1;
                full();
            }
            Exit::Interrupted => {}
            other => panic!("the guest left its program: {other:?}"),
        }
    }
}

/// Stores `value` to each of `pages` pages from `gpa` on; the ring must not fill.
pub fn touch(vcpu: &mut Vcpu, gpa: u64, pages: u64, value: u64) {
    start(vcpu, TOUCH, touching(gpa, pages, value));
    run_through(vcpu, || panic!("the ring is full"));
}

/// Blocks every signal in this thread.
pub fn block_all_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set that pthread_sigmask reads.
    let error = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut())
    };
    assert_eq!(error, 0);
}
