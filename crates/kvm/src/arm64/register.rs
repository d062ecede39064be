//! Names of a vCPU's registers (`KVM_GET_ONE_REG`).
//!
//! A name holds the register's size: [`bytes`].

use std::mem::offset_of;

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_MASK, KVM_REG_SIZE_SHIFT,
    KVM_REG_SIZE_U64, kvm_regs, user_pt_regs,
};

/// The program counter.
pub const PC: u64 = core(offset_of!(user_pt_regs, pc));
/// The processor state: condition flags, interrupt masks, exception level.
pub const PSTATE: u64 = core(offset_of!(user_pt_regs, pstate));
/// The stack pointer of EL0.
pub const SP_EL0: u64 = core(offset_of!(user_pt_regs, sp));
/// The stack pointer of EL1.
pub const SP_EL1: u64 = core(offset_of!(kvm_regs, sp_el1));
/// The vCPU's affinity: its name to the guest and to the interrupt controller.
pub const MPIDR_EL1: u64 = system(3, 0, 0, 0, 5);

/// General register `n`.
///
/// # Panics
/// For a register beyond x30.
#[must_use]
pub const fn x(n: u8) -> u64 {
    assert!(n <= 30, "there are 31 general registers");
    core(offset_of!(user_pt_regs, regs) + n as usize * size_of::<u64>())
}

/// A system register by its encoding (`ARM64_SYS_REG`); each number is cut to its field.
#[must_use]
pub const fn system(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | system_index(op0, op1, crn, crm, op2)
}

/// The five numbers as both registers and the interrupt controller's attributes pack them.
pub(super) const fn system_index(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> u64 {
    (op0 as u64 & 3) << 14
        | (op1 as u64 & 7) << 11
        | (crn as u64 & 0xf) << 7
        | (crm as u64 & 0xf) << 3
        | op2 as u64 & 7
}

/// How many bytes the register `id` has.
#[must_use]
pub const fn bytes(id: u64) -> usize {
    1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT)
}

/// A 64-bit register of `struct kvm_regs`, which is counted in 32-bit words.
const fn core(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / size_of::<u32>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(x(0), 0x6030_0000_0010_0000);
        assert_eq!(x(30), 0x6030_0000_0010_003c);
        assert_eq!(SP_EL0, 0x6030_0000_0010_003e);
        assert_eq!(PC, 0x6030_0000_0010_0040);
        assert_eq!(PSTATE, 0x6030_0000_0010_0042);
        assert_eq!(SP_EL1, 0x6030_0000_0010_0044);
        assert_eq!(MPIDR_EL1, 0x6030_0000_0013_c005);
        assert_eq!(bytes(PC), 8);
        assert_eq!(bytes(0x6020_0000_0010_00d4), 4, "FPSR");
        assert_eq!(bytes(0x6040_0000_0010_0054), 16, "V0");
    }
}
