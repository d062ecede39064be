//! What a ring says, and who writes into it.

use crate::bench::Bench;
use crate::case::Case;
use crate::verdict::{Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T22",
        "ring-order",
        [Ring],
        order,
        "kvm_dirty_ring_push",
        "Stores appear as slot and offset within the slot, in the order of the vCPU's stores."
    ),
    case!(
        "T24",
        "ring-no-duplicates",
        [Ring],
        no_duplicates,
        "mark_page_dirty_in_slot",
        "A page that is dirty and not yet reset is not logged again."
    ),
    case!(
        "T34",
        "ring-unlogged-writers",
        [Ring],
        unlogged_writers,
        "mark_page_dirty_in_slot",
        "Neither stores to a memslot without logging nor the monitor's own stores are logged."
    ),
    case!(
        "T42",
        "ring-wraps",
        [Ring],
        wraps,
        "kvm_dirty_ring_push",
        "A ring wraps without losing or reordering entries."
    ),
    case!(
        "T43",
        "ring-per-vcpu",
        [Ring],
        per_vcpu,
        "kvm_vm_ioctl_reset_dirty_pages",
        "Each vCPU logs into its own ring, whatever its id; one reset covers all rings."
    ),
];

fn order(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let five = vm.log_slot(5, 0x1000, 64)?;
    let seven = vm.log_slot(7, 0x2000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&five, 0..3)?;
    cpu.touch(&seven, 0..2)?;
    let want = [five.logged(0..3), seven.logged(0..2)].concat();
    bench.entries("entries after the stores", &cpu.pending(), &want)
}

fn no_duplicates(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..5)?;
    bench.entries("entries after the first stores", &cpu.pending(), &slot.logged(0..5))?;
    cpu.harvest_all();
    cpu.touch(&slot, 0..5)?;
    bench.entries("entries after harvest and the same stores", &cpu.pending(), &[])
}

fn unlogged_writers(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let quiet = vm.slot(1, 0x1000, 64, 0)?;
    let logging = vm.log_slot(2, 0x2000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    let value = cpu.touch(&quiet, 0..8)?;
    equal("the last page of the slot without logging", quiet.word(7), value)?;
    for page in 0..8 {
        logging.ram.write(page * vm.page_bytes(), vm.fresh_value());
    }
    bench.entries("entries after both", &cpu.pending(), &[])
}

fn wraps(bench: &Bench) -> Verdict {
    let vm = bench.ring(256)?;
    let slot = vm.log_slot(1, 0x1000, 100)?;
    let mut cpu = vm.vcpu(0)?;
    let mut total = 0;
    for round in 0..20 {
        cpu.touch(&slot, 0..100)?;
        let batch = cpu.harvest_all();
        bench.entries(&format!("entries of round {round}"), &batch, &slot.logged(0..100))?;
        equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, batch.len())?;
        total += batch.len() as u64;
    }
    bench.count("entries of 20 rounds", total, 2000)
}

fn per_vcpu(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut zero = vm.vcpu(0)?;
    let mut three = vm.vcpu(3)?;
    three.touch(&slot, 0..4)?;
    bench.entries("vCPU 3's ring", &three.pending(), &slot.logged(0..4))?;
    equal("vCPU 0's ring", zero.pending(), vec![])?;
    zero.touch(&slot, 10..16)?;
    bench.entries("vCPU 0's ring after its own stores", &zero.pending(), &slot.logged(10..16))?;
    let harvested = zero.harvest_all().len() + three.harvest_all().len();
    equal("KVM_RESET_DIRTY_RINGS over both rings", vm.reset()? as usize, harvested)
}
