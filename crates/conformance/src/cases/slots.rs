//! Memslots and their bitmaps.

use ringmark_abi::{Errno, MemoryRegion, mem};

use crate::bench::Bench;
use crate::case::Case;
use crate::target::Exit;
use crate::verdict::{Must, Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T60",
        "slot-logging-toggled",
        [Nothing],
        toggled,
        "kvm_prepare_memory_region",
        "A change of nothing keeps the bitmap; logging off frees it; logging on makes a new one."
    ),
    case!(
        "T61",
        "slot-moved",
        [Nothing],
        moved,
        "kvm_prepare_memory_region",
        "A moved slot keeps its bitmap, relative to the slot's start."
    ),
    case!(
        "T62",
        "slot-refused-changes",
        [Nothing],
        refused_changes,
        "kvm_set_memory_region",
        "A slot's size, memory and read-only flag cannot change, and unknown flags are refused."
    ),
    case!(
        "T63",
        "slot-deleted",
        [Nothing],
        deleted,
        "kvm_set_memory_region",
        "Deleting a slot frees its bitmap; a slot of the same name starts anew."
    ),
    case!(
        "T64",
        "slot-read-only",
        [Nothing],
        read_only,
        "kvm_prepare_memory_region",
        "A store to a read-only slot is an MMIO exit and marks nothing."
    ),
];

fn toggled(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let mut slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..3)?;
    vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
    bench.bits("after a change of nothing", &vm.get(&slot)?, &[0, 1, 2])?;
    cpu.touch(&slot, 0..3)?;
    vm.set_flags(&mut slot, 0)?;
    equal("KVM_GET_DIRTY_LOG with logging off", vm.try_get(&slot), Err(Errno::ENOENT))?;
    vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
    bench.bits("with logging on again", &vm.get(&slot)?, &[])
}

fn moved(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    vm.manual(1)?;
    let mut slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, [1, 2, 3])?;
    vm.move_to(&mut slot, 0x8000)?;
    bench.bits("after the move", &vm.get(&slot)?, &[1, 2, 3])?;
    cpu.touch(&slot, [20, 21])?;
    bench.bits("after stores at the new address", &vm.get(&slot)?, &[1, 2, 3, 20, 21])
}

fn refused_changes(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let region = slot.region();
    let page = vm.page_bytes();
    let changes = [
        ("another size", MemoryRegion { memory_size: region.memory_size / 2, ..region }),
        (
            "other memory",
            MemoryRegion {
                userspace_addr: region.userspace_addr + page,
                memory_size: region.memory_size,
                ..region
            },
        ),
        ("read-only", MemoryRegion { flags: region.flags | mem::READONLY, ..region }),
        ("an unknown flag", MemoryRegion { flags: region.flags | 1 << 10, ..region }),
    ];
    for (what, change) in changes {
        equal(format!("changing a slot to {what}"), vm.set(&change), Err(Errno::EINVAL))?;
    }
    Ok(())
}

fn deleted(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..3)?;
    equal("deleting the slot", vm.try_delete(&slot), Ok(()))?;
    equal("KVM_GET_DIRTY_LOG of it", vm.try_get(&slot), Err(Errno::ENOENT))?;
    equal("deleting it again", vm.try_delete(&slot), Err(Errno::EINVAL))?;
    vm.set(&slot.region()).must("creating the slot again")?;
    bench.bits("the bits of the new slot", &vm.get(&slot)?, &[])
}

fn read_only(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.slot(1, 0x1000, 64, mem::LOG_DIRTY_PAGES | mem::READONLY)?;
    let mut cpu = vm.vcpu(0)?;
    let (_, exit) = cpu.start_touch(&slot, [5])?;
    equal("the exit of a store", exit, Exit::MmioWrite(slot.gpa(5)))?;
    equal("the page", slot.word(5), 0)?;
    bench.bits("the bits", &vm.get(&slot)?, &[])
}
