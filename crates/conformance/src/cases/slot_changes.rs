//! Rings and memslots that change under them.

use ringmark_abi::mem;

use crate::bench::Bench;
use crate::case::Case;
use crate::verdict::{Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T35",
        "ring-slot-deleted",
        [Ring],
        deleted,
        "kvm_reset_dirty_gfn",
        "Entries survive the deletion of their memslot and are reset harmlessly."
    ),
    case!(
        "T36",
        "ring-logging-toggled",
        [Ring],
        toggled,
        "kvm_mmu_slot_apply_flags",
        "Entries survive logging off; stores meanwhile are not logged; logging on re-protects every page."
    ),
    case!(
        "T37",
        "ring-slot-moved",
        [Ring],
        moved,
        "kvm_set_memory_region",
        "After a move entries carry the same slot and offsets from the new base."
    ),
];

fn deleted(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..3)?;
    vm.delete(&slot)?;
    let harvested = cpu.harvest_all();
    bench.entries("entries after the slot is deleted", &harvested, &slot.logged(0..3))?;
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, harvested.len())
}

fn toggled(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let mut slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..4)?;
    vm.set_flags(&mut slot, 0)?;
    bench.entries("entries after logging off", &cpu.pending(), &slot.logged(0..4))?;
    cpu.touch(&slot, 10..14)?;
    bench.entries("entries after stores without logging", &cpu.pending(), &slot.logged(0..4))?;
    vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
    cpu.touch(&slot, [0])?;
    bench.entries("entries after logging on and a store", &cpu.pending(), &slot.logged([0, 1, 2, 3, 0]))
}

fn moved(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let mut slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..2)?;
    vm.move_to(&mut slot, 0x8000)?;
    cpu.touch(&slot, [5, 0])?;
    bench.entries("entries before and after the move", &cpu.pending(), &slot.logged([0, 1, 5, 0]))
}
