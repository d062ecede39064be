//! Clearing dirty bitmaps.

use ringmark_abi::Errno;
use ringmark_dirty::SlotId;

use crate::bench::Bench;
use crate::case::Case;
use crate::target::Source;
use crate::verdict::{Verdict, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T55",
        "clear-arguments",
        [Nothing],
        arguments,
        "kvm_clear_dirty_log_protect",
        "The first page must be a multiple of 64, the number too or reach to the slot's end, and nothing past it."
    ),
    case!(
        "T56",
        "clear-without-manual",
        [Nothing],
        without_manual,
        "kvm_clear_dirty_log_protect",
        "Clearing works without manual protection, and re-protects."
    ),
    case!(
        "T59",
        "clear-past-end",
        [Nothing],
        past_end,
        "kvm_clear_dirty_log_protect",
        "Bits past the slot's end are ignored."
    ),
    case!(
        "T93",
        "clear-edges",
        [Nothing],
        edges,
        "kvm_clear_dirty_log_protect",
        "An empty range at the slot's end is valid; an empty range reads no bitmap."
    ),
];

const NPAGES: u64 = 1000;

fn arguments(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, NPAGES)?;
    let absent = SlotId::new(0, 77);
    let words = [0; 32];
    let clear = |id, first, num, source| vm.vm().clear_dirty_log(id, first, num, source);

    let fine = [(0, 64), (64, 64), (0, 1000), (960, 40), (64, 936), (0, 960), (0, 0), (64, 0)];
    for (first, num) in fine {
        equal(
            format!("clearing ({first}, {num})"),
            clear(slot.id, first, num, Source::Words(&words)),
            Ok(()),
        )?;
    }
    let invalid = [
        (1, 64),
        (63, 64),
        (0, 1),
        (0, 999),
        (0, 1001),
        (0, 1024),
        (960, 64),
        (960, 39),
        (960, 41),
        (1000, 0),
        (1001, 0),
        (1024, 0),
        (64, 930),
        (u64::MAX - 63, 64),
    ];
    for (first, num) in invalid {
        let what = format!("clearing ({first}, {num})");
        equal(what, clear(slot.id, first, num, Source::Words(&words)), Err(Errno::EINVAL))?;
    }
    equal("an empty range and a bad address", clear(slot.id, 0, 0, Source::Bad), Ok(()))?;
    equal("a bad address", clear(slot.id, 0, 64, Source::Bad), Err(Errno::EFAULT))?;
    equal("a bad range and a bad address", clear(slot.id, 0, 999, Source::Bad), Err(Errno::EINVAL))?;
    equal("an absent slot", clear(absent, 0, 64, Source::Words(&words)), Err(Errno::ENOENT))?;
    let misaligned = clear(absent, 1, 64, Source::Words(&words));
    equal("a misaligned first page of an absent slot", misaligned, Err(Errno::EINVAL))
}

fn without_manual(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, NPAGES)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, 0..10)?;
    equal("clearing everything", vm.try_clear(&slot, 0, 1000), Ok(()))?;
    bench.bits("the bits after it", &vm.get(&slot)?, &[])?;
    cpu.touch(&slot, [3])?;
    bench.bits("after one more store", &vm.get(&slot)?, &[3])
}

fn past_end(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, NPAGES)?;
    let mut cpu = vm.vcpu(0)?;
    cpu.touch(&slot, [0, 959, 960, 999])?;
    equal("clearing (960, 40) with 64 bits", vm.try_clear(&slot, 960, 40), Ok(()))?;
    bench.bits("the bits after it", &vm.get(&slot)?, &[0, 959])
}

fn edges(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let slot = vm.log_slot(1, 0x1000, 1024)?;
    equal("clearing (1024, 0)", vm.try_clear(&slot, 1024, 0), Ok(()))?;
    equal("clearing (960, 64)", vm.try_clear(&slot, 960, 64), Ok(()))?;
    equal("clearing (960, 63)", vm.try_clear(&slot, 960, 63), Err(Errno::EINVAL))?;
    equal("an empty range and a bad address", vm.vm().clear_dirty_log(slot.id, 0, 0, Source::Bad), Ok(()))
}
