//! What arm64 guests run: three small programs at EL1, over a page table that the host builds.
//!
//! The MMU is on, so that the guest's accesses are cached like the host's: with it off they would go around the caches,
//! and host and guest would not see each other's stores on hardware. The first 64 GiB are mapped to themselves by
//! blocks of 1 GiB, accessed already, so that the guest's own walks write nothing. Table, code and lists live in a
//! memslot that does not log.

#![allow(unsafe_code, reason = "lends the VM its memory")]

use std::io;

use ringmark_abi::{Errno, MemoryRegion, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_kvm::register::{PC, PSTATE, system, x};
use ringmark_kvm::{Vcpu, Vm};

use crate::ram::{Backing, Ram};
use crate::target::Program;
use crate::verdict::{Must, Stop, Unsupported};

/// The store that ends a program goes here, where no memslot is.
pub(super) const DONE: u64 = 0xd_0000_0000;

/// The guest's own memslot: out of the way of those that cases use, also where pages are of 64 KiB.
const SLOT: SlotId = SlotId::new(0, 30_000);
const BASE: u64 = 0xc_0000_0000;
/// The level-1 table is at the start; its entries map 1 GiB each.
const BLOCKS: u64 = 64;
const BLOCK: u64 = 1 << 30;
const CODE: u64 = 0x1000;
const LISTS: u64 = 0x1_0000;
/// A vCPU's list of addresses.
const LIST_BYTES: u64 = 1 << 20;
const VCPUS: u64 = 4;
const BYTES: u64 = LISTS + VCPUS * LIST_BYTES;

/// A valid block: accessed, inner shareable, for EL1 to read, write and execute, of the memory type with index 0.
const BLOCK_ENTRY: u64 = 0x701;

const SCTLR_EL1: u64 = system(3, 0, 1, 0, 0);
const TTBR0_EL1: u64 = system(3, 0, 2, 0, 0);
const TCR_EL1: u64 = system(3, 0, 2, 0, 2);
const MAIR_EL1: u64 = system(3, 0, 10, 2, 0);
/// MMU and both caches on.
const SCTLR_ON: u64 = 1 | 1 << 2 | 1 << 12;
/// Lower half only, of 39 bits in pages of 4 KiB, walked through the caches; physical addresses of 36 bits.
const TCR: u64 = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23 | 0b001 << 32;
/// Type 0: write-back, both ways allocated.
const MAIR: u64 = 0xff;
/// EL1 with its own stack pointer, every interrupt masked.
const EL1H_MASKED: u64 = 0x3c5;

/// Bytes from [`CODE`] to the programs in [`WORDS`].
const STORE: u64 = 0;
const LOAD: u64 = 28;
const SPIN: u64 = 56;

/// The programs. `x0` points to the list, `x1` counts, `x2` is the value, `x4` is [`DONE`]; `x3` is scratch.
const WORDS: [u32; 16] = [
    0xb400_00a1, // store: cbz x1, done
    0xf840_8403, // ldr x3, [x0], #8
    0xf900_0062, // str x2, [x3]
    0xd100_0421, // sub x1, x1, #1
    0x17ff_fffc, // b store
    0xf900_0081, // done: str x1, [x4]
    0x17ff_ffff, // b done
    0xb400_00a1, // load: cbz x1, done
    0xf840_8403, // ldr x3, [x0], #8
    0xf940_0062, // ldr x2, [x3]
    0xd100_0421, // sub x1, x1, #1
    0x17ff_fffc, // b load
    0xf900_0081, // done: str x1, [x4]
    0x17ff_ffff, // b done
    0xd503_203f, // spin: yield
    0x17ff_ffff, // b spin
];

/// The guest's own memory; kept until the VM is gone.
#[derive(Debug)]
pub(in super::super) struct Guest {
    ram: Ram,
}

impl Guest {
    /// Builds table and code and gives them to `vm`.
    pub(in super::super) fn new(vm: &Vm) -> io::Result<Self> {
        let ram = Ram::new(BYTES, Backing::Pages)?;
        for block in 0..BLOCKS {
            ram.write(block * 8, (block * BLOCK) | BLOCK_ENTRY);
        }
        for (pair, at) in WORDS.chunks_exact(2).zip((CODE..).step_by(8)) {
            ram.write(at, u64::from(pair[0]) | u64::from(pair[1]) << 32);
        }
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

    /// Switches `vcpu`'s MMU on.
    pub(super) fn prepare(vcpu: &mut Vcpu) -> Result<(), Errno> {
        vcpu.set_register(MAIR_EL1, MAIR)?;
        vcpu.set_register(TCR_EL1, TCR)?;
        vcpu.set_register(TTBR0_EL1, BASE)?;
        let reset = vcpu.register(SCTLR_EL1)?;
        vcpu.set_register(SCTLR_EL1, reset | SCTLR_ON)
    }

    /// Points `vcpu` to the start of `program`.
    pub(super) fn start(&self, vcpu: &mut Vcpu, program: &Program) -> Result<(), Stop> {
        let (entry, gpas, value) = match program {
            Program::Store { gpas, value } => (STORE, &gpas[..], *value),
            Program::Load { gpas } => (LOAD, &gpas[..], 0),
            Program::Spin => (SPIN, &[][..], 0),
            Program::InputString { .. } => return Err(Unsupported("no ports (x86's)".into()).into()),
        };
        let list = u64::from(vcpu.id());
        if list >= VCPUS || gpas.len() as u64 * 8 > LIST_BYTES {
            return Err(Stop::Broken("the guest has no room for that many vCPUs or addresses".into()));
        }
        let start = LISTS + list * LIST_BYTES;
        for (gpa, at) in gpas.iter().zip((start..).step_by(8)) {
            self.ram.write(at, *gpa);
        }
        let registers = [
            (x(0), BASE + start),
            (x(1), gpas.len() as u64),
            (x(2), value),
            (x(4), DONE),
            (PC, BASE + CODE + entry),
            (PSTATE, EL1H_MASKED),
        ];
        for (register, value) in registers {
            vcpu.set_register(register, value).must("KVM_SET_ONE_REG")?;
        }
        Ok(())
    }
}
