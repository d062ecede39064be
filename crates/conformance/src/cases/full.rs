//! The soft limit.

use ringmark_abi::Errno;

use crate::bench::Bench;
use crate::case::Case;
use crate::cpu::Cpu;
use crate::rig::{Rig, Slot};
use crate::target::Exit;
use crate::verdict::{Stop, Verdict, ensure, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T38",
        "ring-full-exit",
        [Ring],
        full_exit,
        "kvm_dirty_ring_check_request",
        "At size minus reserve entries the vCPU leaves the guest; the newest entry's store has not happened yet."
    ),
    case!(
        "T39",
        "ring-full-until-reset",
        [Ring],
        until_reset,
        "kvm_dirty_ring_check_request",
        "Harvesting does not make room, only reset does."
    ),
    case!(
        "T40",
        "ring-full-immediate-exit",
        [Ring],
        immediate_exit,
        "kvm_arch_vcpu_ioctl_run",
        "With immediate_exit a full ring is not reported: the run ends with EINTR."
    ),
    case!(
        "T41",
        "ring-full-sweep",
        [Ring],
        sweep,
        "kvm_dirty_ring_push",
        "A sweep through a small ring logs every page, once and once more for each full exit."
    ),
];

fn filled(bench: &Bench) -> Result<(Rig, Slot, Cpu, u64), Stop> {
    let vm = bench.ring(256)?;
    let mut cpu = vm.vcpu(0)?;
    let slot = vm.log_slot(1, 0x1000, cpu.ring_len() as u64 * 2)?;
    let (value, exit) = cpu.start_touch(&slot, 0..slot.npages)?;
    equal("the exit", exit, Exit::DirtyRingFull)?;
    Ok((vm, slot, cpu, value))
}

fn full_exit(bench: &Bench) -> Verdict {
    let (_vm, slot, cpu, value) = filled(bench)?;
    let pending = cpu.pending();
    let limit = cpu.ring_len() as u64 - u64::from(bench.facts().reserve());
    if bench.facts().pml > 0 {
        // Hardware logs up to 512 stores between two looks at the limit, each after it has happened.
        let used = pending.len() as u64;
        return ensure(
            "entries",
            (limit..=cpu.ring_len() as u64).contains(&used),
            "at least the limit",
            used,
        );
    }
    bench.entries("entries at the full exit", &pending, &slot.logged(0..limit))?;
    equal("the second newest entry's page", slot.word(limit - 2), value)?;
    equal("the newest entry's page", slot.word(limit - 1), 0)
}

fn until_reset(bench: &Bench) -> Verdict {
    let (vm, _slot, mut cpu, _) = filled(bench)?;
    equal("running on", cpu.run()?, Exit::DirtyRingFull)?;
    let harvested = cpu.harvest_all().len();
    equal("running on after harvest", cpu.run()?, Exit::DirtyRingFull)?;
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, harvested)?;
    // The retried store and what the ring can hold beyond it: new entries prove that the guest ran.
    let exit = cpu.run()?;
    ensure("entries after reset", !cpu.pending().is_empty(), "some", exit)
}

fn immediate_exit(bench: &Bench) -> Verdict {
    let (_vm, _slot, mut cpu, _) = filled(bench)?;
    cpu.raw().set_immediate_exit(true);
    equal("running on with immediate_exit", cpu.try_run()?, Err(Errno::EINTR))?;
    cpu.raw().set_immediate_exit(false);
    equal("running on without", cpu.run()?, Exit::DirtyRingFull)
}

fn sweep(bench: &Bench) -> Verdict {
    const PAGES: u64 = 100_000;
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, PAGES)?;
    let mut cpu = vm.vcpu(0)?;
    let (value, mut harvested, full) = cpu.touch_through(&slot, 0..PAGES)?;
    harvested.extend(cpu.harvest_all());
    ensure("full exits", full > 0, "some", full)?;
    let unwritten = (0..PAGES).find(|&page| slot.word(page) != value);
    equal("the first page without the value", unwritten, None)?;
    let entries = harvested.len() as u64;
    harvested.sort_unstable();
    harvested.dedup();
    equal("pages logged", harvested, slot.logged(0..PAGES))?;
    if bench.facts().pml > 0 {
        return Ok(());
    }
    bench.count("entries", entries, PAGES + full)
}
