//! The guest on arm64: EL1 without paging.

use ringmark_abi::Errno;
use ringmark_kvm::{Power, Vcpu, register};

/// `mov x1,#0x10000; mov x3,#8; again: str x0,[x1]; add x1,x1,#0x1000; subs x3,x3,#1; b.ne again; mov x0,#SYSTEM_OFF;
/// hvc #0`: one store to each of the eight 4 KiB pages from 0x10000 on, and a call of the firmware.
pub(crate) const PROGRAM: [u32; 9] = [
    0xd2a0_0021,
    0xd280_0103,
    0xf900_0020,
    0x9140_0421,
    0xf100_0463,
    0x54ff_ffa1,
    0xd280_0100,
    0xf2b0_8000,
    0xd400_0002,
];

/// Makes the vCPU a processor and puts it at the program's first instruction, address 0.
pub(crate) fn start(vcpu: &mut Vcpu) -> Result<(), Errno> {
    vcpu.init(Power::On)?;
    vcpu.set_register(register::PC, 0)
}
