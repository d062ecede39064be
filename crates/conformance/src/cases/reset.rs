//! Giving entries back.

use ringmark_abi::Errno;

use crate::bench::Bench;
use crate::case::Case;
use crate::cpu::{DIRTY, RESET};
use crate::facts::Rules;
use crate::verdict::{Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T18",
        "reset-without-ring",
        [Nothing],
        without_ring,
        "kvm_vm_ioctl_reset_dirty_pages",
        "Without rings there is nothing to reset."
    ),
    case!(
        "T19",
        "reset-idle",
        [Ring],
        idle,
        "kvm_vm_ioctl_reset_dirty_pages",
        "Reset of an idle VM counts 0; its argument is ignored."
    ),
    case!(
        "T23",
        "reset-before-harvest",
        [Ring],
        before_harvest,
        "kvm_dirty_ring_reset",
        "Entries that were not harvested stay as they are."
    ),
    case!(
        "T25",
        "reset-counts",
        [Ring],
        counts,
        "kvm_dirty_ring_reset",
        "Reset counts what was harvested, once, and empties the entries."
    ),
    case!(
        "T26",
        "reset-reprotects",
        [Ring],
        reprotects,
        "kvm_reset_dirty_gfn",
        "After reset the pages are logged again."
    ),
    case!(
        "T27",
        "reset-flags-three",
        [Ring],
        flags_three,
        "kvm_dirty_gfn_harvested",
        "The kernel looks at the reset bit only; the dirty bit beside it does no harm."
    ),
    case!(
        "T28",
        "reset-stops-at-gap",
        [Ring],
        stops_at_gap,
        "kvm_dirty_ring_reset",
        "Reset stops at the first entry that was not harvested and takes up there later."
    ),
    case!(
        "T29",
        "reset-partial",
        [Ring],
        partial,
        "kvm_dirty_ring_reset",
        "Part of a ring can be harvested and reset; exactly those pages are logged again."
    ),
    case!(
        "T81",
        "reset-between",
        [Ring],
        between,
        "kvm_arch_mmu_enable_log_dirty_pt_masked",
        "x86 re-protects the reset pages only; arm64 all pages from the lowest to the highest of a batch."
    ),
];

fn without_ring(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    equal("KVM_RESET_DIRTY_RINGS", vm.vm().reset(0), Err(Errno::EINVAL))
}

fn idle(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let _cpu = vm.vcpu(0)?;
    equal("KVM_RESET_DIRTY_RINGS", vm.vm().reset(0), Ok(0))?;
    equal("KVM_RESET_DIRTY_RINGS with 1234", vm.vm().reset(1234), Ok(0))
}

fn before_harvest(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..5)?;
    let before = cpu.pending();
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()?, 0)?;
    equal("the entries after it", cpu.pending(), before)
}

fn counts(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..5)?;
    let harvested = cpu.harvest_all();
    bench.entries("entries after 5 stores", &harvested, &slot.logged(0..5))?;
    equal("the first KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, harvested.len())?;
    equal("the second", vm.reset()?, 0)?;
    equal("flags after it", cpu.flags(0, harvested.len())?, vec![0; harvested.len()])
}

fn reprotects(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..3)?;
    let harvested = cpu.harvest_all();
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, harvested.len())?;
    cpu.touch(&slot, 0..3)?;
    bench.entries("entries after the same stores", &cpu.pending(), &slot.logged(0..3))
}

fn flags_three(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..4)?;
    let harvested = cpu.harvest_with(usize::MAX, DIRTY | RESET);
    bench.entries("entries after 4 stores", &harvested, &slot.logged(0..4))?;
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, harvested.len())?;
    cpu.touch(&slot, 0..4)?;
    bench.entries("entries after the same stores", &cpu.pending(), &slot.logged(0..4))
}

fn stops_at_gap(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..3)?;
    cpu.entry(1)?.set_flags(RESET);
    equal("KVM_RESET_DIRTY_RINGS with the second entry marked", vm.reset()?, 0)?;
    cpu.entry(0)?.set_flags(RESET);
    equal("KVM_RESET_DIRTY_RINGS with the first marked too", vm.reset()?, 2)?;
    equal("flags after it", cpu.flags(0, 3)?, vec![0, 0, DIRTY])
}

fn partial(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..3)?;
    cpu.harvest(2);
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()?, 2)?;
    cpu.touch(&slot, 0..3)?;
    bench.entries("entries after the same stores", &cpu.pending(), &slot.logged([2, 0, 1]))
}

fn between(bench: &Bench) -> Verdict {
    let vm = bench.best(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, [0, 9, 5])?;
    equal("harvested", cpu.harvest(2), slot.logged([0, 9]))?;
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()?, 2)?;
    cpu.touch(&slot, [5])?;
    let want = match bench.facts().rules {
        Rules::X86 => slot.logged([5]),
        Rules::Arm64 => slot.logged([5, 5]),
    };
    bench.entries("entries after a store between the reset pages", &cpu.pending(), &want)
}
