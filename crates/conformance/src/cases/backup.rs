//! Rings and backup bitmap together.

use ringmark_abi::mem;

use super::its_rig::{ITTS, ItsRig};
use crate::bench::{Bench, set_bits};
use crate::case::Case;
use crate::verdict::{Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T66",
        "backup-not-for-vcpus",
        [WithBitmap],
        not_for_vcpus,
        "mark_page_dirty_in_slot",
        "A guest's stores are in its ring and never in the backup bitmap."
    ),
    case!(
        "T78",
        "backup-initially-set",
        [WithBitmap],
        initially_set,
        "kvm_prepare_memory_region",
        "INITIALLY_SET presets the backup bitmap and hides mapped pages from the ring until they are cleared."
    ),
    case!(
        "T79",
        "backup-read-reprotects",
        [WithBitmap, Gic],
        read_reprotects,
        "kvm_get_dirty_log_protect",
        "Reading the backup bitmap re-protects its pages for the guest: its next store is logged once more."
    ),
];

fn not_for_vcpus(bench: &Bench) -> Verdict {
    let vm = bench.ring_with_bitmap(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..5)?;
    bench.entries("entries in the ring", &cpu.pending(), &slot.logged(0..5))?;
    bench.bits("the backup bitmap", &vm.get(&slot)?, &[])
}

fn initially_set(bench: &Bench) -> Verdict {
    let vm = bench.ring_with_bitmap(1024)?;
    vm.manual(3)?;
    let mut slot = vm.slot(1, 0x1000, 100, 0)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..4)?;
    vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
    equal("the new backup bitmap", set_bits(&vm.get(&slot)?), (0..100).collect::<Vec<_>>())?;
    cpu.touch(&slot, 0..4)?;
    bench.entries("entries for mapped pages", &cpu.pending(), &[])?;
    equal("clearing everything", vm.try_clear(&slot, 0, 100), Ok(()))?;
    cpu.touch(&slot, 0..4)?;
    bench.entries("entries after clearing", &cpu.pending(), &slot.logged(0..4))
}

fn read_reprotects(bench: &Bench) -> Verdict {
    let mut its = ItsRig::with_devices(bench, true)?;
    its.forget()?;
    let page = its.page(ITTS);
    its.cpu.touch(&its.ram, [page])?;
    its.save()?;
    its.cpu.touch(&its.ram, [page])?;
    bench.entries("entries after a save and a store", &its.cpu.pending(), &its.ram.logged([page]))?;
    bench.bits("the backup bitmap", &its.get()?, &its.table_pages())?;
    its.cpu.touch(&its.ram, [page])?;
    bench.entries("entries after reading it and a store", &its.cpu.pending(), &its.ram.logged([page, page]))
}
