//! x86-64: long mode over page tables that the host builds, identity-mapped by pages of 2 MiB.
//!
//! The tables' accessed and dirty bits are set beforehand, so that no walk of the guest's writes memory. Tables and code
//! lie in a memslot that is never logged.

use ringmark_abi::Errno;
use ringmark_dirty::{PageSize, SlotId};
use ringmark_kvm::bindings::{KVM_MP_STATE_RUNNABLE, kvm_regs, kvm_segment};
use ringmark_kvm::{Exit, System, Vcpu, Vm};

use super::{Privilege, Program};
use crate::error::During;
use crate::{Backing, Pages, ProbeError, Ram, Step};

/// Where data slots begin.
pub(crate) const DATA: u64 = 0x1000_0000;
/// Where tables and code lie.
pub(crate) const PROGRAM: u64 = 0;
/// Their memslot: out of the way of data slots.
pub(crate) const PROGRAM_SLOT: SlotId = SlotId::new(0, 30_000);

const PROGRAM_BYTES: u64 = 0x1_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
/// Present, writable, user, accessed, dirty.
const TABLE: u64 = 0x67;
/// The same, and a large page.
const LARGE: u64 = TABLE | 0x80;
const LARGE_SHIFT: u32 = 21;

/// Stores rax to the first word of rcx pages from rdi on, rsi bytes apart, then writes to port [`DONE`].
const SWEEP: (u64, [u8; 16]) = (
    0x8000,
    [
        0x48, 0x89, 0x07, // mov [rdi], rax
        0x48, 0x01, 0xf7, // add rdi, rsi
        0x48, 0xff, 0xc9, // dec rcx
        0x75, 0xf5, // jnz back to the store
        0xe6, 0x10, // out DONE, al
        0xeb, 0xfc, // jmp back to it
        0x90,
    ],
);
/// The state in rax steps by rax · r8 + r9; stores it to the page of rdi's that its upper bits under the mask r10 name.
const SCATTER: (u64, [u8; 32]) = (
    0x8100,
    [
        0x49, 0x0f, 0xaf, 0xc0, // imul rax, r8
        0x4c, 0x01, 0xc8, // add rax, r9
        0x48, 0x89, 0xc2, // mov rdx, rax
        0x48, 0xc1, 0xea, 0x28, // shr rdx, 40
        0x4c, 0x21, 0xd2, // and rdx, r10
        0x48, 0xc1, 0xe2, 0x0c, // shl rdx, 12
        0x48, 0x89, 0x04, 0x17, // mov [rdi + rdx], rax
        0xeb, 0xe5, // jmp back
        0x90, 0x90, 0x90, 0x90, 0x90,
    ],
);
const DONE: u16 = 0x10;

/// What a PC's KVM wants before its first vCPU.
pub(crate) fn prepare(vm: &Vm) -> Result<(), ProbeError> {
    vm.set_tss_address(0xfffb_d000).during("KVM_SET_TSS_ADDR")?;
    vm.set_identity_map_address(0xfffb_c000).during("KVM_SET_IDENTITY_MAP_ADDR")?;
    vm.create_irqchip().during("KVM_CREATE_IRQCHIP")
}

/// Tables and code.
pub(crate) fn program(_: PageSize) -> Result<Pages, ProbeError> {
    let pages = Pages::new(PROGRAM_BYTES, Backing::Small)?;
    let written = (|| {
        pages.write(PML4, PDPT | TABLE)?;
        pages.write(PDPT, PD | TABLE)?;
        (0..512).try_for_each(|n| pages.write(PD + n * 8, n << LARGE_SHIFT | LARGE))?;
        pages.copy_in(SWEEP.0, &SWEEP.1)?;
        pages.copy_in(SCATTER.0, &SCATTER.1)
    })();
    written.ok_or_else(|| ProbeError::Left("its program has no room".into()))?;
    Ok(pages)
}

/// Long mode, in the ring of `privilege`.
pub(crate) fn prepare_vcpu(system: &System, vcpu: &mut Vcpu, privilege: Privilege) -> Result<(), ProbeError> {
    vcpu.set_cpuid(&system.supported_cpuid().during("KVM_GET_SUPPORTED_CPUID")?).during("KVM_SET_CPUID2")?;
    let mut sregs = vcpu.sregs().during("KVM_GET_SREGS")?;
    let (dpl, code, data) = match privilege {
        Privilege::User => (3, 0x33, 0x2b),
        Privilege::Kernel => (0, 0x10, 0x18),
    };
    let flat = kvm_segment {
        limit: u32::MAX,
        selector: data,
        type_: 3,
        present: 1,
        dpl,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: code, type_: 11, db: 0, l: 1, ..flat };
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = flat;
    }
    sregs.cr3 = PML4;
    sregs.cr4 |= 0x620; // OSXMMEXCPT, OSFXSR, PAE
    sregs.cr0 = 0x8001_0033; // PG, WP, NE, ET, MP, PE
    sregs.efer |= 0x500; // LMA, LME
    vcpu.set_sregs(&sregs).during("KVM_SET_SREGS")?;
    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE).during("KVM_SET_MP_STATE")
}

/// Points `vcpu` to the start of `program`.
pub(crate) fn start(vcpu: &mut Vcpu, ram: &Ram, program: Program, _: Privilege) -> Result<(), Errno> {
    let page = ringmark_track::Memory::page_size(ram).bytes();
    // IOPL 3, so that user mode reaches the port.
    let begin = |rip| kvm_regs { rip, rflags: 0x3002, ..Default::default() };
    vcpu.set_regs(&match program {
        Program::Sweep { first, pages, value } => {
            kvm_regs { rdi: DATA + first * page, rsi: page, rcx: pages, rax: value, ..begin(SWEEP.0) }
        }
        Program::Scatter { first, pages, seed } => kvm_regs {
            rdi: DATA + first * page,
            rax: seed,
            r8: super::MULTIPLIER,
            r9: super::INCREMENT,
            r10: super::mask(pages),
            ..begin(SCATTER.0)
        },
    })
}

/// What an exit means to a small guest.
pub(crate) fn step(exit: Exit<'_>) -> Result<Step, String> {
    match exit {
        Exit::IoOut { port: DONE, .. } => Ok(Step::Done),
        Exit::DirtyRingFull => Ok(Step::RingFull),
        Exit::Interrupted => Ok(Step::Interrupted),
        other => Err(format!("{other:?}")),
    }
}
