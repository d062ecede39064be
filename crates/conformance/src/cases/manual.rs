//! Manual protection: clearing apart from reading.

use ringmark_abi::{EnableCap, Errno, cap, mem};

use crate::bench::{Bench, set_bits};
use crate::case::Case;
use crate::target::Source;
use crate::verdict::{Must, Verdict, ensure, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T49",
        "manual-initially-set-hole",
        [Ring],
        initially_set_hole,
        "kvm_mmu_slot_apply_flags",
        "With INITIALLY_SET, logging on leaves mapped pages unprotected: their stores never reach a ring."
    ),
    case!(
        "T57",
        "manual-arguments",
        [Nothing],
        arguments,
        "kvm_vm_ioctl_enable_cap_generic",
        "Manual protection takes 0, 1 and 3, any number of times, no flags; its first version is refused."
    ),
    case!(
        "T58",
        "manual-get-keeps",
        [Nothing],
        get_keeps,
        "kvm_get_dirty_log_protect",
        "With manual protection reading changes nothing and clearing takes exactly the pages named."
    ),
    case!(
        "T65",
        "manual-initially-set",
        [Nothing],
        initially_set,
        "kvm_prepare_memory_region",
        "With INITIALLY_SET a new bitmap is all ones, for exactly the slot's pages."
    ),
];

fn initially_set_hole(bench: &Bench) -> Verdict {
    for manual in [0, 1, 3] {
        let vm = bench.ring(1024)?;
        vm.manual(manual)?;
        let mut slot = vm.slot(1, 0x1000, 64, 0)?;
        let mut cpu = vm.vcpu(0)?;
        cpu.touch(&slot, 0..4)?;
        vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
        cpu.touch(&slot, 0..4)?;
        let want = if manual == 3 { vec![] } else { slot.logged(0..4) };
        bench.entries(&format!("entries with manual protection {manual}"), &cpu.pending(), &want)?;
    }
    Ok(())
}

fn arguments(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    let offered = vm.vm().check_extension(cap::MANUAL_DIRTY_LOG_PROTECT2).must("KVM_CHECK_EXTENSION")?;
    for arg in [0, 1, 3, 0] {
        let want = if arg & !offered == 0 { Ok(()) } else { Err(Errno::EINVAL) };
        equal(format!("argument {arg}"), vm.cap(cap::MANUAL_DIRTY_LOG_PROTECT2, arg), want)?;
    }
    for arg in [2, 4, 5, 7, 1 << 32] {
        let answer = vm.cap(cap::MANUAL_DIRTY_LOG_PROTECT2, arg);
        equal(format!("argument {arg}"), answer, Err(Errno::EINVAL))?;
    }
    let flagged = EnableCap { flags: 1, ..EnableCap::new(cap::MANUAL_DIRTY_LOG_PROTECT2, 1) };
    equal("flags = 1", vm.vm().enable_cap(&flagged), Err(Errno::EINVAL))?;
    equal("the first version", vm.cap(cap::MANUAL_DIRTY_LOG_PROTECT, 1), Err(Errno::EINVAL))
}

fn get_keeps(bench: &Bench) -> Verdict {
    let vm = bench.vm()?;
    vm.manual(1)?;
    let slot = vm.log_slot(1, 0x1000, 1000)?;
    let mut cpu = vm.vcpu(0)?;
    let ten: Vec<u64> = (0..10).collect();
    cpu.touch(&slot, 0..10)?;
    bench.bits("after 10 stores", &vm.get(&slot)?, &ten)?;
    bench.bits("read again", &vm.get(&slot)?, &ten)?;
    let answer = vm.vm().clear_dirty_log(slot.id, 0, 64, Source::Words(&[3]));
    equal("clearing pages 0 and 1", answer, Ok(()))?;
    bench.bits("after clearing pages 0 and 1", &vm.get(&slot)?, &ten[2..])?;
    cpu.touch(&slot, [0])?;
    bench.bits("after a store to page 0", &vm.get(&slot)?, &[0, 2, 3, 4, 5, 6, 7, 8, 9])
}

fn initially_set(bench: &Bench) -> Verdict {
    const NPAGES: u64 = 1000;
    let vm = bench.vm()?;
    let mut slot = vm.log_slot(1, 0x1000, NPAGES)?;
    let mut cpu = vm.vcpu(0)?;
    vm.manual(3)?;
    vm.set_flags(&mut slot, 0)?;
    vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
    let all: Vec<u64> = (0..NPAGES).collect();
    equal("a new bitmap", set_bits(&vm.get(&slot)?), all.clone())?;
    equal("read again", set_bits(&vm.get(&slot)?), all.clone())?;
    equal("clearing the first 64 pages", vm.try_clear(&slot, 0, 64), Ok(()))?;
    bench.bits("after clearing them", &vm.get(&slot)?, &all[64..])?;
    cpu.touch(&slot, 0..3)?;
    vm.manual(0)?;
    let words = vm.get(&slot)?;
    bench.bits("after 3 stores", &words, &[&[0, 1, 2], &all[64..]].concat())?;
    ensure("bits past the slot's end", set_bits(&words).last() == Some(&(NPAGES - 1)), "none", words.last())?;
    bench.bits("read again without manual protection", &vm.get(&slot)?, &[])
}
