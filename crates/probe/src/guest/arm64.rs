//! arm64: no translation, so a guest-physical address is what the program says.

use ringmark_abi::Errno;
use ringmark_dirty::{PageSize, SlotId};
use ringmark_kvm::register::{PC, PSTATE, x};
use ringmark_kvm::{Exit, Power, System, Vcpu, Vm};

use super::{Privilege, Program};
use crate::error::During;
use crate::{Backing, Pages, ProbeError, Ram, Step};

/// Where data slots begin.
pub(crate) const DATA: u64 = 0x5000_0000;
/// Where the code lies.
pub(crate) const PROGRAM: u64 = 0x2000_0000;
/// Its memslot: out of the way of data slots.
pub(crate) const PROGRAM_SLOT: SlotId = SlotId::new(0, 30_000);

/// An address that no memslot holds, by which a program says that it is done.
const DONE: u64 = 0x0900_0000;
/// Bytes between the two programs.
const SCATTER: u64 = 0x100;

/// Stores x0 to the first word of x3 pages from x1 on, x2 bytes apart, then writes to x4.
const SWEEP_CODE: [u32; 6] = [
    0xf900_0020, // str x0, [x1]
    0x8b02_0021, // add x1, x1, x2
    0xf100_0463, // subs x3, x3, #1
    0x54ff_ffa1, // b.ne back to the store
    0xb900_0080, // str w0, [x4]
    0x17ff_ffff, // b back to it
];
/// The state in x0 steps by x0 · x3 + x5; stores it to the page of x1's that its upper bits under the mask x2 name.
const SCATTER_CODE: [u32; 6] = [
    0x9b03_1400, // madd x0, x0, x3, x5
    0xd368_fc06, // lsr x6, x0, #40
    0x8a02_00c6, // and x6, x6, x2
    0x9ac7_20c6, // lsl x6, x6, x7
    0xf826_6820, // str x0, [x1, x6]
    0x17ff_fffb, // b back
];

/// Nothing: its vCPUs need no device.
pub(crate) fn prepare(_: &Vm) -> Result<(), ProbeError> {
    Ok(())
}

/// The code, in a page.
pub(crate) fn program(page_size: PageSize) -> Result<Pages, ProbeError> {
    let pages = Pages::new(page_size.bytes(), Backing::Small)?;
    let put = |at, code: [u32; 6]| {
        let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        pages.copy_in(at, &bytes)
    };
    put(0, SWEEP_CODE)
        .and_then(|()| put(SCATTER, SCATTER_CODE))
        .ok_or_else(|| ProbeError::Left("its program has no room".into()))?;
    Ok(pages)
}

/// A vCPU at reset.
pub(crate) fn prepare_vcpu(_: &System, vcpu: &mut Vcpu, _: Privilege) -> Result<(), ProbeError> {
    vcpu.init(Power::On).during("KVM_ARM_VCPU_INIT")
}

/// Points `vcpu` to the start of `program`.
pub(crate) fn start(vcpu: &mut Vcpu, ram: &Ram, program: Program, privilege: Privilege) -> Result<(), Errno> {
    let size = ringmark_track::Memory::page_size(ram);
    let (at, first, registers) = match program {
        Program::Sweep { first, pages, value } => {
            (0, first, [(0, value), (2, size.bytes()), (3, pages), (4, DONE)])
        }
        Program::Scatter { first, pages, seed } => {
            vcpu.set_register(x(5), super::INCREMENT)?;
            let shift = u64::from(size.shift());
            (SCATTER, first, [(0, seed), (2, super::mask(pages)), (3, super::MULTIPLIER), (7, shift)])
        }
    };
    vcpu.set_register(x(1), DATA + first * size.bytes())?;
    for (number, value) in registers {
        vcpu.set_register(x(number), value)?;
    }
    // Interrupts masked.
    let pstate = match privilege {
        Privilege::User => 0x3c0,
        Privilege::Kernel => 0x3c5,
    };
    vcpu.set_register(PSTATE, pstate)?;
    vcpu.set_register(PC, PROGRAM + at)
}

/// What an exit means to a small guest.
pub(crate) fn step(exit: Exit<'_>) -> Result<Step, String> {
    match exit {
        Exit::MmioWrite { address: DONE, .. } => Ok(Step::Done),
        Exit::DirtyRingFull => Ok(Step::RingFull),
        Exit::Interrupted => Ok(Step::Interrupted),
        other => Err(format!("{other:?}")),
    }
}
