//! A guest without page tables: its memory, its devices, its programs.

#![allow(unsafe_code, reason = "guest memory")]

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ringmark_abi::{EnableCap, MemoryRegion, Vm as _, cap, mem};
use ringmark_dirty::{Harvested, Harvester, RingMemory, SlotId, SlotTable};
use ringmark_kvm::gic::{Device, addr, ctrl, device_type, group};
use ringmark_kvm::register::{PC, PSTATE, x};
use ringmark_kvm::{Exit, Power, System, Vcpu, Vm};

use crate::memory::Memory;

pub(crate) const PAGE: u64 = 4096;
/// How long a program may take: all is emulated in the lab, twice.
const LIMIT: Duration = Duration::from_secs(120);
/// Where programs lie, in memslot 0.
pub(crate) const CODE: u64 = 0x2000_0000;
/// Where data slots go.
pub(crate) const DATA: u64 = 0x5000_0000;
/// An address that no memslot holds, by which a program says that it is done.
pub(crate) const DONE: u64 = 0x0900_0000;
const DISTRIBUTOR: u64 = 0x0800_0000;
const REDISTRIBUTORS: u64 = 0x0810_0000;

/// Where ITS `n` lies.
pub(crate) const fn its_frame(n: usize) -> u64 {
    0x0a00_0000 + n as u64 * 0x2_0000
}

/// Interrupts masked, EL0 or EL1.
const EL0: u64 = 0x3c0;
const EL1: u64 = 0x3c5;

/// A program: where it lies, its words, and the state of the processor it is written for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) at: u64,
    code: &'static [u32],
    pstate: u64,
}

/// Stores x0 to the first word of x3 pages from x1 on, x2 bytes apart, then says `DONE`.
///
/// `str x0,[x1]; add x1,x1,x2; subs x3,x3,#1; b.ne -12; str w0,[x4]; b .`
pub(crate) const TOUCH: Program = Program {
    at: CODE,
    code: &[0xf900_0020, 0x8b02_0021, 0xf100_0463, 0x54ff_ffa1, 0xb900_0080, 0x1400_0000],
    pstate: EL0,
};
/// Counts in the word at x1 for ever: `ldr x5,[x1]; add x5,x5,#1; str x5,[x1]; b -12`.
pub(crate) const COUNT: Program =
    Program { at: CODE + 0x100, code: &[0xf940_0025, 0x9100_04a5, 0xf900_0025, 0x17ff_fffd], pstate: EL0 };
/// Reads a word from x4, stores it to x1, then says `DONE`: `ldr w0,[x4]; str x0,[x1]; str w0,[x4]; b .`
pub(crate) const READ: Program =
    Program { at: CODE + 0x200, code: &[0xb940_0080, 0xf900_0020, 0xb900_0080, 0x1400_0000], pstate: EL0 };
/// Calls its firmware, then says `DONE` with the answer: `hvc #0; str w0,[x4]; b .`
pub(crate) const CALL: Program =
    Program { at: CODE + 0x300, code: &[0xd400_0002, 0xb900_0080, 0x1400_0000], pstate: EL1 };
/// A secondary's start: stores x0, its argument, where it points to, then says `DONE`.
///
/// `str x0,[x0]; mov x4,#DONE; str w0,[x4]; b .`
pub(crate) const SECONDARY: Program =
    Program { at: CODE + 0x400, code: &[0xf900_0000, 0xd2a1_2004, 0xb900_0080, 0x1400_0000], pstate: EL1 };
/// Takes interrupts and says `DONE` with each one's INTID, for ever.
///
/// `mov x5,#0xff; msr ICC_PMR_EL1,x5; mov x5,#1; msr ICC_IGRPEN1_EL1,x5; isb; mrs x0,ICC_IAR1_EL1; cmp w0,#1023;
/// b.eq -8; msr ICC_EOIR1_EL1,x0; str w0,[x4]; b -20`
pub(crate) const RECEIVE: Program = Program {
    at: CODE + 0x500,
    code: &[
        0xd280_1fe5,
        0xd518_4605,
        0xd280_0025,
        0xd518_cce5,
        0xd503_3fdf,
        0xd538_cc00,
        0x710f_fc1f,
        0x54ff_ffc0,
        0xd518_cc20,
        0xb900_0080,
        0x17ff_fffb,
    ],
    pstate: EL1,
};

/// How the machine's memory is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    Ring(u32),
    RingWithBitmap(u32),
}

/// A VM with the programs above in memslot 0, which is not logged.
///
/// vCPUs are the caller's and must be dropped first.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) vm: Vm,
    pub(crate) slots: Vec<(MemoryRegion, Memory)>,
}

impl Guest {
    pub(crate) fn new(system: &System, tracking: Tracking) -> Self {
        let vm = system.create_vm().unwrap();
        let (Tracking::Ring(entries) | Tracking::RingWithBitmap(entries)) = tracking;
        vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, u64::from(entries) * 16)).unwrap();
        if matches!(tracking, Tracking::RingWithBitmap(_)) {
            vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_WITH_BITMAP, 0)).unwrap();
        }
        let mut guest = Self { vm, slots: Vec::new() };
        guest.add_slot(0, CODE, 1, 0);
        for program in [TOUCH, COUNT, READ, CALL, SECONDARY, RECEIVE] {
            let bytes: Vec<u8> = program.code.iter().flat_map(|word| word.to_le_bytes()).collect();
            guest.memory(0).copy_in(program.at - CODE, &bytes);
        }
        guest
    }

    pub(crate) fn add_slot(&mut self, slot: u16, gpa: u64, pages: u64, flags: u32) {
        self.add_memory(slot, gpa, Memory::new(pages * PAGE), flags);
    }

    pub(crate) fn add_memory(&mut self, slot: u16, gpa: u64, memory: Memory, flags: u32) {
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
    pub(crate) fn add_logged(&mut self, slot: u16, pages: u64) {
        self.add_slot(slot, DATA, pages, mem::LOG_DIRTY_PAGES);
    }

    pub(crate) fn memory(&self, slot: u16) -> &Memory {
        &self.slots.iter().find(|(region, _)| region.slot.id() == slot).unwrap().1
    }

    /// The memslots as a table to harvest with.
    pub(crate) fn table(&self) -> SlotTable {
        let page_size = self.vm.page_size();
        SlotTable::new(self.slots.iter().map(|(region, _)| ringmark_dirty::Memslot {
            id: region.slot,
            base: page_size.gfn(region.guest_phys_addr),
            npages: page_size.pages_in(region.memory_size),
        }))
        .unwrap()
    }

    /// A vCPU at reset.
    pub(crate) fn vcpu(&self, id: u32, power: Power) -> Vcpu {
        let mut vcpu = self.vm.create_vcpu(id).unwrap();
        vcpu.init(power).unwrap();
        vcpu
    }

    /// A VGICv3 and ITSs, placed and initialised. After the vCPUs.
    pub(crate) fn add_interrupts(&self, its: usize) -> (Device, Vec<Device>) {
        let vgic = self.vm.create_device(device_type::ARM_VGIC_V3).unwrap();
        vgic.set_attr(group::ADDR, addr::V3_DIST, DISTRIBUTOR).unwrap();
        vgic.set_attr(group::ADDR, addr::V3_REDIST, REDISTRIBUTORS).unwrap();
        vgic.set_attr(group::CTRL, ctrl::INIT, 0).unwrap();
        let place = |n| {
            let its = self.vm.create_device(device_type::ARM_VGIC_ITS).unwrap();
            its.set_attr(group::ADDR, addr::ITS, its_frame(n)).unwrap();
            its.set_attr(group::CTRL, ctrl::INIT, 0).unwrap();
            its
        };
        (vgic, (0..its).map(place).collect())
    }

    /// The pages of `slot` in its bitmap, which is thereby cleared.
    pub(crate) fn collect(&self, slot: u16) -> Vec<u64> {
        let mut words = vec![0; usize::try_from(self.memory(slot).len().div_ceil(PAGE * 64)).unwrap()];
        self.vm.get_dirty_log(SlotId::new(0, slot), &mut words).unwrap();
        (0_u64..)
            .zip(&words)
            .flat_map(|(i, word)| {
                (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| i * 64 + bit)
            })
            .collect()
    }

    /// Copies what the memory of another guest with the same slots holds.
    pub(crate) fn copy_memory(&self, from: &Self) {
        for ((_, to), (_, from)) in self.slots.iter().zip(&from.slots) {
            to.copy_from(from);
        }
    }
}

pub(crate) type Ring = Harvester<Arc<dyn RingMemory>>;

pub(crate) fn harvester(vcpu: &Vcpu) -> Ring {
    Harvester::new(vcpu.ring_memory().unwrap()).unwrap()
}

/// Everything the ring holds, as (slot, offset) in the ring's order.
pub(crate) fn harvest(ring: &mut Ring, guest: &Guest) -> Vec<(u16, u64)> {
    let table = guest.table();
    ring.harvest(&table)
        .map(|entry| match entry {
            Harvested::Page { slot, offset } => (slot.id(), offset),
            other => panic!("not an entry of the table: {other:?}"),
        })
        .collect()
}

/// Sets a vCPU to the start of `program` with its arguments in x0 and on, and [`DONE`] in x4.
pub(crate) fn start(vcpu: &mut Vcpu, program: Program, arguments: &[u64]) {
    assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted), "the last access is finished");
    for (n, &value) in (0..).zip(arguments) {
        vcpu.set_register(x(n), value).unwrap();
    }
    vcpu.set_register(x(4), DONE).unwrap();
    vcpu.set_register(PSTATE, program.pstate).unwrap();
    vcpu.set_register(PC, program.at).unwrap();
}

/// Runs a program until it says [`DONE`], calling `full` whenever the ring is full; what it says.
pub(crate) fn run_through(vcpu: &mut Vcpu, mut full: impl FnMut()) -> u32 {
    let kick = vcpu.kick_handle();
    // A guest that never says so is interrupted, which fails the test.
    let (running, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            kick.kick().unwrap();
        }
    });
    let said = loop {
        match vcpu.run().unwrap() {
            Exit::MmioWrite { address: DONE, data } => break u32::from_le_bytes(data.try_into().unwrap()),
            Exit::DirtyRingFull => full(),
            other => panic!("the guest left its program: {other:?}"),
        }
    };
    drop(running);
    said
}

/// Stores `value` to each of `pages` pages from `gpa` on; the ring must not fill.
pub(crate) fn touch(vcpu: &mut Vcpu, gpa: u64, pages: u64, value: u64) {
    start(vcpu, TOUCH, &[value, gpa, PAGE, pages]);
    run_through(vcpu, || panic!("the ring is full"));
}
