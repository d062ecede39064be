//! `struct user_regs_struct` (arch/x86/include/asm/user_64.h) out of KVM's registers.

use ringmark_kvm::{Sregs, VcpuState};

/// Registers in the order of the structure.
pub(super) fn general(state: &VcpuState) -> Vec<u64> {
    let regs = &state.regs;
    let [cs, ss, ds, es, fs, gs] = match &state.sregs {
        Sregs::V2(s) => [s.cs, s.ss, s.ds, s.es, s.fs, s.gs],
        Sregs::V1(s) => [s.cs, s.ss, s.ds, s.es, s.fs, s.gs],
    };
    // What a process has here that is in no system call.
    let orig_rax = u64::MAX;
    vec![
        regs.r15,
        regs.r14,
        regs.r13,
        regs.r12,
        regs.rbp,
        regs.rbx,
        regs.r11,
        regs.r10,
        regs.r9,
        regs.r8,
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        orig_rax,
        regs.rip,
        cs.selector.into(),
        regs.rflags,
        regs.rsp,
        ss.selector.into(),
        fs.base,
        gs.base,
        ds.selector.into(),
        es.selector.into(),
        fs.selector.into(),
        gs.selector.into(),
    ]
}
