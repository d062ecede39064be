//! `struct user_pt_regs` (arch/arm64/include/uapi/asm/ptrace.h) out of KVM's registers.

use ringmark_kvm::VcpuState;
use ringmark_kvm::register::{PC, PSTATE, SP_EL0, SP_EL1, x};

/// The mode of a processor at EL1 that uses EL1's stack pointer (`PSR_MODE_EL1h`).
const EL1H: u64 = 5;
/// `PSR_MODE_MASK`.
const MODE: u64 = 0xf;

/// Registers in the order of the structure. The stack pointer is the one in use.
pub(super) fn general(state: &VcpuState) -> Vec<u64> {
    let value = |id: u64| {
        let found = state.registers.iter().find(|register| register.id == id);
        let bytes = found.and_then(|register| register.value.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let pstate = value(PSTATE);
    let stack = if pstate & MODE == EL1H { SP_EL1 } else { SP_EL0 };
    let mut registers: Vec<u64> = (0..=30).map(|n| value(x(n))).collect();
    registers.extend([value(stack), value(PC), pstate]);
    registers
}
