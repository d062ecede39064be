//! The guest on x86-64: real mode.

use ringmark_abi::Errno;
use ringmark_kvm::Vcpu;

/// `mov ax,0x1000; mov ds,ax; xor bx,bx; mov cx,8; again: inc byte [bx]; add bx,0x1000; loop again; hlt`: one store to
/// each of the eight 4 KiB pages from 0x10000 on.
pub(crate) const PROGRAM: [u8; 19] = [
    0xb8, 0x00, 0x10, 0x8e, 0xd8, 0x31, 0xdb, 0xb9, 0x08, 0x00, 0xfe, 0x07, 0x81, 0xc3, 0x00, 0x10, 0xe2,
    0xf8, 0xf4,
];

/// Puts the vCPU at the program's first instruction, address 0.
pub(crate) fn start(vcpu: &mut Vcpu) -> Result<(), Errno> {
    let mut sregs = vcpu.sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    regs.rip = 0;
    vcpu.set_regs(&regs)
}
