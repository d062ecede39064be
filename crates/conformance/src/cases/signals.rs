//! Resetting while signals arrive, and calling from another process.

use std::time::Duration;

use ringmark_abi::Errno;

use crate::bench::Bench;
use crate::case::Case;
use crate::facts::{ENTRY_BYTES, RING_BYTES_MAX};
use crate::rig::Rig;
use crate::target::Wish;
use crate::verdict::{Must, Stop, Verdict, ensure, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T44",
        "reset-interrupted",
        [Ring, StoppingReset],
        interrupted,
        "kvm_dirty_ring_reset",
        "Since Linux 6.16 a pending signal ends a reset early with a short count, never with an error."
    ),
    case!(
        "T45",
        "reset-uninterrupted",
        [Ring, FinishingReset],
        uninterrupted,
        "kvm_dirty_ring_reset",
        "Before Linux 6.16 a reset finishes whatever signals are pending."
    ),
    case!(
        "T94",
        "forked-child",
        [Ring],
        forked_child,
        "kvm_vm_ioctl",
        "A VM answers no process but the one that made it."
    ),
];

/// A VM of a kernel as `wish` says with a full ring harvested, and how many entries that is.
fn harvested(bench: &Bench, stops: bool) -> Result<(Rig, usize), Stop> {
    let entries = u32::try_from(RING_BYTES_MAX / ENTRY_BYTES).unwrap_or(u32::MAX);
    let pages = u64::from(entries - bench.facts().reserve() - 1).min(65_000);
    let vm = bench.wished(Wish { reset_stops_on_signal: Some(stops), ..Wish::default() })?;
    vm.enable_ring(entries)?;
    let slot = vm.log_slot(1, 0x1000, pages)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..pages)?;
    let harvested = cpu.harvest_all();
    bench.entries("entries of the sweep", &harvested, &slot.logged(0..pages))?;
    Ok((vm, harvested.len()))
}

fn interrupted(bench: &Bench) -> Verdict {
    let mut count = 0;
    // A machine may be fast enough to finish before the first signal; then it gets signals sooner.
    for micros in [300, 100, 30] {
        let (vm, total) = harvested(bench, true)?;
        let first =
            vm.vm().reset_amid_signals(Duration::from_micros(micros))?.must("KVM_RESET_DIRTY_RINGS")?;
        let mut sum = first as usize;
        for _ in 0..total {
            if sum >= total {
                break;
            }
            sum += vm.reset()? as usize;
        }
        equal("the sum of all counts", sum, total)?;
        count = first;
        if (first as usize) < total {
            bench.note(format!("the first reset counted {first} of {total}"));
            return Ok(());
        }
    }
    ensure("the first reset", false, "a short count", count)
}

fn uninterrupted(bench: &Bench) -> Verdict {
    let (vm, total) = harvested(bench, false)?;
    let first = vm.vm().reset_amid_signals(Duration::from_micros(300))?;
    equal("KVM_RESET_DIRTY_RINGS amid signals", first.map(|count| count as usize), Ok(total))
}

fn forked_child(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let _slot = vm.log_slot(1, 0x1000, 64)?;
    equal("a VM ioctl from a forked child", vm.vm().in_forked_child()?, Err(Errno::EIO))
}
