//! What x86-64 guests run: four small programs in user mode (CPL 3), over page tables that the host builds.
//!
//! User mode, because a paravirtual KVM emulates privileged code in batches, with other rules than a processor's. All
//! of the first 4 GiB are mapped to themselves by pages of 2 MiB, accessed and dirty already, so that the guest's own
//! walks write nothing. Tables, code and lists live in a memslot that does not log.

#![allow(unsafe_code, reason = "lends the VM its memory")]

use std::io;

use ringmark_abi::{Errno, MemoryRegion, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_kvm::{Vcpu, Vm};

use crate::ram::{Backing, Ram};
use crate::target::Program;

/// The port whose write ends a program.
pub(super) const PORT_DONE: u16 = 0x10;
/// The port that string inputs read.
pub(super) const PORT_INPUT: u16 = 0x11;

/// The guest's own memslot: out of the way of those that cases use.
const SLOT: SlotId = SlotId::new(0, 30_000);
const BASE: u64 = 0xe000_0000;
/// Pages of 4 KiB: a level-4 table, a level-3 table, four level-2 tables, code, task.
const PAGE: u64 = 1 << 12;
const LEVEL_3: u64 = PAGE;
const LEVEL_2: u64 = 2 * PAGE;
const CODE: u64 = 6 * PAGE;
/// A task whose bitmap allows every port in use here: on some hosts IOPL 3 alone does not.
const TASK: u64 = 7 * PAGE;
const TASK_LIMIT: u32 = 0xfff;
/// Bytes from the task's start to its bitmap, as the upper 16 bits of the word at 96.
const TASK_BITMAP: (u64, u64) = (96, 104 << 48);
const LISTS: u64 = 16 * PAGE;
/// A vCPU's list of addresses.
const LIST_BYTES: u64 = 1 << 20;
const VCPUS: u64 = 4;
const BYTES: u64 = LISTS + VCPUS * LIST_BYTES;

/// Present, writable, user, accessed, dirty.
const TABLE: u64 = 0x67;
/// The same for a page of 2 MiB.
const HUGE_PAGE: u64 = TABLE | 0x80;

/// Offsets of the programs in [`CODE_BYTES`].
const STORE: u64 = 0;
const LOAD: u64 = 32;
const INPUT: u64 = 64;
const SPIN: u64 = 80;

/// The programs. `rsi` points to the list, `rcx` counts, `rax` is the value; `rdi` is scratch.
const CODE_BYTES: [u8; 96] = {
    let mut code = [0x90; 96];
    let store = [
        0x48, 0x85, 0xc9, // test rcx, rcx
        0x74, 0x0f, // jz done
        0x48, 0x8b, 0x3e, // mov rdi, [rsi]
        0x48, 0x89, 0x07, // mov [rdi], rax
        0x48, 0x83, 0xc6, 0x08, // add rsi, 8
        0x48, 0xff, 0xc9, // dec rcx
        0xeb, 0xec, // jmp back to the test
        0xe6, 0x10, // done: out 0x10, al
        0xeb, 0xfc, // jmp done
    ];
    let mut load = store;
    load[9] = 0x8b; // mov rax, [rdi]
    let input = [
        0x6c, // insb
        0xe6, 0x10, // done: out 0x10, al
        0xeb, 0xfc, // jmp done
    ];
    let spin = [
        0xf3, 0x90, // pause
        0xeb, 0xfc, // jmp back
    ];
    put(&mut code, STORE, &store);
    put(&mut code, LOAD, &load);
    put(&mut code, INPUT, &input);
    put(&mut code, SPIN, &spin);
    code
};

#[expect(clippy::cast_possible_truncation, reason = "offsets below 96")]
const fn put(code: &mut [u8; 96], at: u64, program: &[u8]) {
    let mut i = 0;
    while i < program.len() {
        code[at as usize + i] = program[i];
        i += 1;
    }
}

/// The guest's own memory; kept until the VM is gone.
#[derive(Debug)]
pub(in super::super) struct Guest {
    ram: Ram,
}

impl Guest {
    /// Builds tables and code and gives them to `vm`.
    pub(in super::super) fn new(vm: &Vm) -> io::Result<Self> {
        let ram = Ram::new(BYTES, Backing::Pages)?;
        ram.write(0, (BASE + LEVEL_3) | TABLE);
        for table in 0..4 {
            ram.write(LEVEL_3 + table * 8, (BASE + LEVEL_2 + table * PAGE) | TABLE);
        }
        for (entry, address) in (0..4 * 512).zip((0u64..).step_by(2 << 20)) {
            ram.write(LEVEL_2 + entry * 8, address | HUGE_PAGE);
        }
        for (chunk, at) in CODE_BYTES.chunks_exact(8).zip((CODE..).step_by(8)) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(chunk);
            ram.write(at, u64::from_le_bytes(bytes));
        }
        ram.write(TASK + TASK_BITMAP.0, TASK_BITMAP.1);
        let region = MemoryRegion {
            slot: SLOT,
            flags: 0,
            guest_phys_addr: BASE,
            memory_size: BYTES,
            userspace_addr: ram.address(),
        };
        // SAFETY: the memory is this value's, which the VM's owner keeps until the VM is gone.
        unsafe { vm.set_user_memory_region(&region) }?;
        Ok(Self { ram })
    }

    /// Puts `vcpu` into 64-bit user mode with port access.
    pub(super) fn prepare(vcpu: &mut Vcpu) -> Result<(), Errno> {
        let mut sregs = vcpu.sregs()?;
        sregs.cr3 = BASE;
        sregs.cr4 = 1 << 5; // PAE
        sregs.cr0 = 0x8005_0033; // PG, AM, WP, NE, ET, MP, PE
        sregs.efer = 0x500; // LME, LMA
        let mut data = sregs.ds;
        data.base = 0;
        data.limit = u32::MAX;
        data.selector = 0x23;
        data.type_ = 3;
        data.dpl = 3;
        (data.present, data.s, data.db, data.g, data.l, data.unusable) = (1, 1, 1, 1, 0, 0);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        let mut code = data;
        code.selector = 0x33;
        code.type_ = 11;
        (code.db, code.l) = (0, 1);
        sregs.cs = code;
        let mut task = data;
        task.base = BASE + TASK;
        task.selector = 0x40;
        task.limit = TASK_LIMIT;
        task.type_ = 11;
        (task.dpl, task.s, task.db, task.g) = (0, 0, 0, 0);
        sregs.tr = task;
        sregs.ldt.unusable = 1;
        sregs.ldt.present = 0;
        vcpu.set_sregs(&sregs)
    }

    /// Points `vcpu` to the start of `program`.
    pub(super) fn start(&self, vcpu: &mut Vcpu, program: &Program) -> Result<(), Errno> {
        let (entry, gpas, value, target) = match program {
            Program::Store { gpas, value } => (STORE, &gpas[..], *value, 0),
            Program::Load { gpas } => (LOAD, &gpas[..], 0, 0),
            Program::InputString { gpa, .. } => (INPUT, &[][..], 0, *gpa),
            Program::Spin => (SPIN, &[][..], 0, 0),
        };
        let list = u64::from(vcpu.id());
        let start = LISTS + list * LIST_BYTES;
        if list >= VCPUS || gpas.len() as u64 * 8 > LIST_BYTES {
            return Err(Errno::ENOSPC);
        }
        for (gpa, at) in gpas.iter().zip((start..).step_by(8)) {
            self.ram.write(at, *gpa);
        }
        let mut regs = vcpu.regs()?;
        regs.rip = BASE + CODE + entry;
        regs.rsi = BASE + start;
        regs.rcx = gpas.len() as u64;
        regs.rax = value;
        regs.rdi = target;
        regs.rdx = u64::from(PORT_INPUT);
        regs.rflags = 0x3002; // IOPL 3
        vcpu.set_regs(&regs)
    }
}
