//! What only the engine can be asked: races by the step, and writers that no user space can make a kernel have.

use std::sync::{Arc, Mutex};

use ringmark_engine::{Marked, Writer};

use crate::bench::{Bench, lock};
use crate::case::Case;
use crate::rig::Rig;
use crate::verdict::{Must, Stop, Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T84",
        "reset-flush-race",
        [Engine, Ring],
        flush_race,
        "kvm_vm_ioctl_reset_dirty_pages",
        "A second reset returns before the first one has flushed: without a lock of the monitor's a page is lost."
    ),
    case!(
        "T85",
        "copy-before-reset",
        [Engine, Ring],
        copy_before_reset,
        "kvm_reset_dirty_gfn",
        "A page copied before it is reset can change unseen; copied after, the change is in the next round."
    ),
    case!(
        "T86",
        "mark-of-other-vm",
        [Engine, Ring],
        other_vm,
        "mark_page_dirty_in_slot",
        "A mark made while a vCPU of another VM is loaded is dropped and warned of."
    ),
    case!(
        "T87",
        "write-without-vcpu",
        [Engine, Ring],
        without_vcpu,
        "mark_page_dirty_in_slot",
        "A write without a vCPU is lost in ring-only mode, else in the bitmap; outside a table save it is warned of."
    ),
];

fn engine(rig: &Rig) -> Result<&ringmark_engine::Vm, Stop> {
    rig.vm().engine().ok_or_else(|| Stop::Broken("the target is no engine".into()))
}

fn flush_race(bench: &Bench) -> Verdict {
    for locked in [false, true] {
        let rig = bench.ring(1024)?;
        let slot = rig.log_slot(1, 0x1000, 64)?;
        let mut cpu = rig.vcpu(0)?;
        cpu.touch(&slot, [0])?;
        equal("harvested by A", cpu.harvest_all(), slot.logged([0]))?;
        let cpu = Arc::new(Mutex::new(cpu));
        // What B copies, and whether its steps went as they should.
        let copied = Arc::new(Mutex::new(None));
        let second = {
            let (rig, slot, cpu, copied) = (rig.clone(), slot.clone(), Arc::clone(&cpu), Arc::clone(&copied));
            move || {
                let reset = rig.vm().reset(0);
                let copy = slot.word(0);
                let stored = lock(&cpu).touch(&slot, [0]);
                *lock(&copied) = Some((reset, copy, stored));
            }
        };
        if locked {
            equal("A's reset", rig.reset()?, 1)?;
            second();
        } else {
            engine(&rig)?.faults().before_reset_flush(second);
            equal("A's reset", rig.reset()?, 1)?;
            engine(&rig)?.faults().clear();
        }
        let (reset, copy, stored) =
            lock(&copied).take().ok_or_else(|| Stop::Broken("B did not get to run".into()))?;
        equal("B's reset", reset, Ok(0))?;
        let value = stored?;
        equal("the page in memory", slot.word(0), value)?;
        let logged = lock(&cpu).pending();
        equal("whether B's copy is old", copy != value, true)?;
        let want = if locked { slot.logged([0]) } else { vec![] };
        equal(format!("entries that tell of it, with a lock: {locked}"), logged, want)?;
    }
    Ok(())
}

fn copy_before_reset(bench: &Bench) -> Verdict {
    for reset_first in [false, true] {
        let rig = bench.ring(1024)?;
        let slot = rig.log_slot(1, 0x1000, 64)?;
        let mut cpu = rig.vcpu(0)?;
        let old = cpu.touch(&slot, [0])?;
        cpu.harvest_all();
        if reset_first {
            rig.reset()?;
        }
        equal("the copy", slot.word(0), old)?;
        cpu.touch(&slot, [0])?;
        if !reset_first {
            rig.reset()?;
        }
        let want = if reset_first { slot.logged([0]) } else { vec![] };
        equal(format!("the next round, reset first: {reset_first}"), cpu.pending(), want)?;
    }
    Ok(())
}

fn other_vm(bench: &Bench) -> Verdict {
    let rig = bench.best(1024)?;
    let slot = rig.log_slot(1, 0x1000, 64)?;
    let cpu = rig.vcpu(0)?;
    let other = bench.ring(1024)?;
    let mut stranger = engine(&other)?.create_vcpu(0).must("KVM_CREATE_VCPU")?;
    let ring = stranger.ring_memory();
    let running = stranger.enter().map_err(|exit| Stop::Broken(format!("KVM_RUN ended with {exit:?}")))?;
    let marked = engine(&rig)?.mark_page_dirty(slot.id, 3, Writer::Other);
    drop(running);
    equal("the mark", marked, Ok(Marked::OtherVm))?;
    equal("warnings", engine(&rig)?.stats().marks_of_other_vm, 1)?;
    equal("the VM's ring", cpu.pending(), vec![])?;
    let strangers = ring.map(|ring| ring.entries().first().map(ringmark_dirty::Entry::flags));
    equal("the other VM's ring", strangers, Some(Some(0)))?;
    if bench.facts().with_bitmap {
        bench.bits("the backup bitmap", &rig.get(&slot)?, &[])?;
    }
    Ok(())
}

fn without_vcpu(bench: &Bench) -> Verdict {
    let mut modes =
        vec![("ring only", bench.ring(1024)?, Marked::Dropped), ("bitmap", bench.vm()?, Marked::Bitmap)];
    if bench.facts().with_bitmap {
        modes.push(("ring and bitmap", bench.ring_with_bitmap(1024)?, Marked::Bitmap));
    }
    for (mode, rig, want) in modes {
        let slot = rig.log_slot(1, 0x1000, 64)?;
        let cpu = rig.vcpu(0)?;
        let vm = engine(&rig)?;
        let marked = vm.device_write(slot.gpa(3), &7u64.to_le_bytes(), Writer::Other);
        equal(format!("the write's mark, {mode}"), marked, Ok(want))?;
        equal(format!("the page, {mode}"), slot.word(3), 7)?;
        equal(format!("warnings, {mode}"), vm.stats().marks_without_vcpu, 1)?;
        equal(format!("entries, {mode}"), cpu.pending(), vec![])?;
        match want {
            Marked::Bitmap => bench.bits(&format!("the bitmap, {mode}"), &rig.get(&slot)?, &[3])?,
            _ => equal(format!("lost marks, {mode}"), vm.stats().dropped_marks, 1)?,
        }
    }
    Ok(())
}
