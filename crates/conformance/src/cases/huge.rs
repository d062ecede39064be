//! Huge pages, and what arm64 takes for the sign of logging.

use ringmark_abi::mem;

use crate::bench::Bench;
use crate::case::Case;
use crate::ram::Backing;
use crate::rig::{Rig, Slot};
use crate::target::Wish;
use crate::verdict::{Must, Stop, Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T82",
        "huge-ring-only-hole",
        [Arm64, RingOnly],
        ring_only,
        "arm64: memslot_is_logging, user_mem_abort",
        "arm64 with a ring and no bitmap maps huge pages writable and logs one page of each."
    ),
    case!(
        "T83",
        "huge-with-bitmap",
        [WithBitmap],
        with_bitmap,
        "arm64: memslot_is_logging, user_mem_abort",
        "With the backup bitmap every page of a huge page is logged."
    ),
    case!(
        "T95",
        "read-faults",
        [Arm64, WithBitmap],
        read_faults,
        "arm64: memslot_is_logging, user_mem_abort",
        "arm64 with a ring and no bitmap logs pages that are only read; with the bitmap it does not."
    ),
];

const PAGES: u64 = 2048;

fn huge_slot(rig: &Rig, flags: u32) -> Result<Slot, Stop> {
    let slot = rig.describe(1, 0x1000, PAGES, flags, Backing::HugePages)?;
    for page in 0..PAGES {
        slot.ram.write(page * slot.page_bytes, 1);
    }
    rig.set(&slot.region()).must("creating a memslot")?;
    Ok(slot)
}

/// A rig of a host that backs memory with blocks of 2 MiB.
fn huge_rig(bench: &Bench, bitmap: bool) -> Result<(Rig, u64), Stop> {
    let block = (2 << 20) / bench.facts().page_size.bytes();
    let rig = bench.wished(Wish { huge_pages: Some(block), ..Wish::default() })?;
    rig.enable_ring(4096.max(bench.facts().smallest_ring()))?;
    if bitmap {
        rig.enable_bitmap()?;
    }
    Ok((rig, block))
}

fn ring_only(bench: &Bench) -> Verdict {
    let (vm, block) = huge_rig(bench, false)?;
    let slot = huge_slot(&vm, mem::LOG_DIRTY_PAGES)?;
    let mut cpu = vm.vcpu(0)?;
    for what in ["at first", "after harvest and reset"] {
        cpu.touch(&slot, 0..PAGES)?;
        let harvested = cpu.harvest_all().len();
        equal(format!("entries for 2048 pages in huge pages, {what}"), harvested as u64, PAGES / block)?;
        equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, harvested)?;
    }
    Ok(())
}

fn with_bitmap(bench: &Bench) -> Verdict {
    let (vm, _) = huge_rig(bench, true)?;
    let mut slot = huge_slot(&vm, 0)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..PAGES)?;
    vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
    for what in ["after logging on", "after harvest and reset"] {
        cpu.touch(&slot, 0..PAGES)?;
        let harvested = cpu.harvest_all();
        bench.entries(&format!("entries {what}"), &harvested, &slot.logged(0..PAGES))?;
        equal("KVM_RESET_DIRTY_RINGS", vm.reset()? as usize, harvested.len())?;
    }
    Ok(())
}

fn read_faults(bench: &Bench) -> Verdict {
    for (what, bitmap, pages) in [("ring only", false, 4), ("ring and bitmap", true, 0)] {
        let vm = if bitmap { bench.ring_with_bitmap(1024)? } else { bench.ring(1024)? };
        let slot = vm.describe(1, 0x1000, 64, mem::LOG_DIRTY_PAGES, Backing::Pages)?;
        for page in 0..4 {
            slot.ram.write(page * slot.page_bytes, 1);
        }
        vm.set(&slot.region()).must("creating a memslot")?;
        let mut cpu = vm.vcpu(0)?;
        cpu.read(&slot, 0..4)?;
        bench.entries(&format!("entries after loads, {what}"), &cpu.pending(), &slot.logged(0..pages))?;
    }
    Ok(())
}
