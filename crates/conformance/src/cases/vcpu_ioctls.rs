//! Entries that come from the kernel's own writes with a vCPU loaded.

use ringmark_abi::Errno;

use crate::bench::Bench;
use crate::case::Case;
use crate::target::{Exit, Program};
use crate::verdict::{Must, Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T46",
        "msr-write-logs",
        [X86, Ring],
        msr_write,
        "kvm_write_wall_clock",
        "KVM_SET_MSRS of the wall clock logs three entries for one page, without KVM_RUN."
    ),
    case!(
        "T47",
        "ring-hard-full",
        [X86, Ring, MayWarn],
        hard_full,
        "kvm_dirty_ring_push",
        "Writes past the ring's end overwrite the oldest entries and put reader and kernel out of step for good."
    ),
    case!(
        "T48",
        "pending-input-logs",
        [X86, Ring],
        pending_input,
        "complete_fast_pio_in, complete_emulated_pio",
        "A pending string input writes and logs its page on the next KVM_RUN, even one that exits at once."
    ),
];

fn msr_write(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.raw().write_wall_clock(slot.gpa(9))?.must("KVM_SET_MSRS")?;
    bench.entries("entries after KVM_SET_MSRS", &cpu.pending(), &slot.logged([9, 9, 9]))
}

fn hard_full(bench: &Bench) -> Verdict {
    let vm = bench.ring(256)?;
    let slot = vm.log_slot(1, 0x1000, 128)?;
    let mut cpu = vm.vcpu(0)?;
    let size = cpu.ring_len();
    // Sizes are powers of four here, so that two stores and whole triples make one more entry than the ring has.
    equal("ring size modulo 3", size % 3, 1)?;
    cpu.touch(&slot, [100, 101])?;
    equal("the oldest entry", cpu.entry(0)?.payload(), (slot.id.raw(), 100))?;
    for _ in 0..(size - 1) / 3 {
        cpu.raw().write_wall_clock(slot.gpa(9))?.must("KVM_SET_MSRS")?;
    }
    equal("the oldest entry after one push too many", cpu.entry(0)?.payload(), (slot.id.raw(), 9))?;
    equal("running on", cpu.start(&Program::Load { gpas: vec![] })?, Exit::DirtyRingFull)?;
    equal("harvested", cpu.harvest_all().len(), size)?;
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, size)?;
    cpu.touch(&slot, [50, 51, 52])?;
    equal("entries where the reader looks", cpu.pending(), vec![])?;
    equal("the entry one further on", cpu.entry(cpu.fetch() + 1)?.payload(), (slot.id.raw(), 50))
}

fn pending_input(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    let program = Program::InputString { gpa: slot.gpa(4), byte: 0x5a };
    equal("the exit of insb", cpu.start(&program)?, Exit::Input)?;
    let before = cpu.pending().len() as u64;
    cpu.raw().set_immediate_exit(true);
    equal("running on with immediate_exit", cpu.try_run()?, Err(Errno::EINTR))?;
    bench.count("entries that the run added", cpu.pending().len() as u64 - before, 1)?;
    equal("the newest entry", cpu.pending().last().copied(), slot.logged([4]).first().copied())?;
    equal("the byte in memory", slot.word(4) & 0xff, 0x5a)
}
