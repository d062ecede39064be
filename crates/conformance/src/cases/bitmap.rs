//! Reading dirty bitmaps.

use ringmark_abi::Errno;
use ringmark_dirty::SlotId;

use crate::bench::{Bench, set_bits};
use crate::case::Case;
use crate::target::{Dest, Source};
use crate::verdict::{Must, Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T50",
        "get-clears",
        [Nothing],
        get_clears,
        "kvm_get_dirty_log_protect",
        "KVM_GET_DIRTY_LOG reports the pages stored to since the last call, and only once."
    ),
    case!(
        "T51",
        "get-bad-slots",
        [Nothing],
        get_bad_slots,
        "kvm_get_dirty_log_protect",
        "A slot that does not log or exist gives ENOENT, a slot number or address space out of range EINVAL."
    ),
    case!(
        "T52",
        "ring-only-no-bitmap",
        [RingOnly],
        ring_only,
        "kvm_use_dirty_bitmap",
        "With rings and no backup bitmap, reading and clearing bitmaps gives ENXIO whatever the slot."
    ),
    case!(
        "T53",
        "get-length",
        [Nothing],
        get_length,
        "kvm_get_dirty_log_protect",
        "Exactly the rounded number of 64-bit words is written; the bits past the slot's end are 0."
    ),
    case!(
        "T54",
        "get-fault-destroys",
        [Nothing],
        get_fault,
        "kvm_get_dirty_log_protect",
        "A read that fails with EFAULT has cleared the bits and re-protected the pages all the same."
    ),
];

fn get_clears(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, 1000)?;
    let mut cpu = vm.vcpu(0)?;
    bench.bits("a fresh slot", &vm.get(&slot)?, &[])?;
    cpu.touch(&slot, 0..5)?;
    bench.bits("after 5 stores", &vm.get(&slot)?, &[0, 1, 2, 3, 4])?;
    bench.bits("read again", &vm.get(&slot)?, &[])?;
    cpu.touch(&slot, [2])?;
    bench.bits("after one more store", &vm.get(&slot)?, &[2])
}

fn get_bad_slots(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let _quiet = vm.slot(1, 0x1000, 64, 0)?;
    let slots = bench.facts().user_slots;
    let spaces = bench.facts().address_spaces;
    let questions = [
        ("a slot that does not log", 1, Errno::ENOENT),
        ("an absent slot", 77, Errno::ENOENT),
        ("the last valid slot number", slots - 1, Errno::ENOENT),
        ("the first slot number out of range", slots, Errno::EINVAL),
        ("slot number 0xffff", 0xffff, Errno::EINVAL),
        ("an address space out of range", spaces << 16 | 1, Errno::EINVAL),
    ];
    for (what, raw, errno) in questions {
        let mut words = [0; 1024];
        let answer = vm.vm().get_dirty_log(SlotId::from_raw(raw), Dest::Words(&mut words));
        equal(format!("KVM_GET_DIRTY_LOG of {what}"), answer, Err(errno))?;
    }
    Ok(())
}

fn ring_only(bench: &Bench) -> Verdict {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let bad = bench.facts().user_slots;
    let spaces = bench.facts().address_spaces;
    for raw in [slot.id.raw(), 77, bad, 0xffff, spaces << 16] {
        let id = SlotId::from_raw(raw);
        let got = vm.vm().get_dirty_log(id, Dest::Words(&mut [0; 1024]));
        equal(format!("KVM_GET_DIRTY_LOG of slot {raw:#x}"), got, Err(Errno::ENXIO))?;
        for (first, num) in [(0, 64), (1, 64)] {
            let cleared = vm.vm().clear_dirty_log(id, first, num, Source::Words(&[0]));
            let what = format!("KVM_CLEAR_DIRTY_LOG of slot {raw:#x} from page {first}");
            equal(what, cleared, Err(Errno::ENXIO))?;
        }
    }
    Ok(())
}

fn get_length(bench: &Bench) -> Verdict {
    const UNTOUCHED: u64 = 0xeeee_eeee_eeee_eeee;
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, 1000)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, [0, 63, 64, 999])?;
    let mut words = [UNTOUCHED; 24];
    vm.vm().get_dirty_log(slot.id, Dest::Words(&mut words)).must("KVM_GET_DIRTY_LOG")?;
    let (written, rest) = words.split_at(slot.words());
    bench.bits("the words of the slot", written, &[0, 63, 64, 999])?;
    equal(
        "bits past the slot's end",
        set_bits(written).iter().filter(|&&bit| bit >= slot.npages).count(),
        0,
    )?;
    equal("the words after them", rest, &[UNTOUCHED; 8][..])
}

fn get_fault(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..5)?;
    equal(
        "KVM_GET_DIRTY_LOG to a bad address",
        vm.vm().get_dirty_log(slot.id, Dest::Bad),
        Err(Errno::EFAULT),
    )?;
    bench.bits("the bits after it", &vm.get(&slot)?, &[])?;
    cpu.touch(&slot, 0..2)?;
    bench.bits("after storing again", &vm.get(&slot)?, &[0, 1])
}
