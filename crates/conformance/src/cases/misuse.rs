//! What the kernel does with a reader that breaks the protocol: a monitor must know how it would lose pages.

use ringmark_abi::mem;
use ringmark_engine::Rule;

use crate::bench::{Bench, Logged};
use crate::case::Case;
use crate::cpu::{Cpu, RESET};
use crate::rig::{Rig, Slot};
use crate::verdict::{Stop, Verdict, ensure, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T30",
        "misuse-entry-zeroed",
        [Ring],
        entry_zeroed,
        "kvm_dirty_ring_reset",
        "An entry whose flags a reader zeroes stops that ring for ever."
    ),
    case!(
        "T31",
        "misuse-bogus-payload",
        [Ring],
        bogus_payload,
        "kvm_reset_dirty_gfn",
        "A harvested entry whose slot or offset is bogus is counted, and its page stays unprotected and unlogged."
    ),
    case!(
        "T32",
        "misuse-bogus-batch",
        [Ring],
        bogus_batch,
        "kvm_reset_dirty_gfn",
        "One bogus offset takes the whole batch of up to 64 pages with it."
    ),
    case!(
        "T33",
        "misuse-repaired",
        [Ring],
        repaired,
        "kvm_mmu_slot_apply_flags",
        "Switching logging off and on re-protects pages that a reset has missed."
    ),
    case!(
        "T92",
        "misuse-unused-entry",
        [Ring, MayWarn],
        unused_entry,
        "kvm_dirty_ring_reset",
        "Marking an unused entry makes reset run ahead of the kernel's own index: reader and kernel are out of step."
    ),
];

fn rig(bench: &Bench) -> Result<(Rig, Slot, Cpu), Stop> {
    let vm = bench.ring(1024)?;
    let slot = vm.log_slot(1, 0x1000, 64)?;
    let cpu = vm.vcpu(0)?;
    Ok((vm, slot, cpu))
}

/// Asks again in a new VM when the host has disturbed the guest's pages: what these cases count is single entries, and a
/// real kernel may log a page once more whenever the host takes it away for a moment.
fn undisturbed(bench: &Bench, ask: fn(&Bench) -> Verdict) -> Verdict {
    for _ in 0..4 {
        match ask(bench) {
            Err(Stop::Broken(why)) if bench.facts().real => bench.note(why),
            answer => return answer,
        }
    }
    ask(bench)
}

/// The entries are `want` and nothing else; a legal over-report breaks the attempt, anything less is an answer.
fn exactly(bench: &Bench, what: &str, got: &[Logged], want: &[Logged]) -> Verdict {
    let covers = want.iter().all(|entry| got.contains(entry));
    if got != want && covers && bench.facts().real {
        return Err(Stop::Broken(format!("{what}: over-reported, asked again: {got:?} for {want:?}")));
    }
    equal(what, got, want)
}

fn entry_zeroed(bench: &Bench) -> Verdict {
    let (vm, slot, mut cpu) = rig(bench)?;
    cpu.touch(&slot, 0..2)?;
    cpu.entry(0)?.set_flags(0);
    cpu.entry(1)?.set_flags(RESET);
    equal("KVM_RESET_DIRTY_RINGS behind the gap", vm.reset()?, 0)?;
    equal("the same later", vm.reset()?, 0)
}

fn bogus_payload(bench: &Bench) -> Verdict {
    undisturbed(bench, bogus_payload_once)
}

fn bogus_payload_once(bench: &Bench) -> Verdict {
    let (vm, slot, mut cpu) = rig(bench)?;
    let absent = (slot.id.raw() + 1000, 0);
    let no_address_space = (7 << 16 | slot.id.raw(), 0);
    let past_end = (slot.id.raw(), slot.npages);
    for (page, bogus) in (0..).zip([absent, no_address_space, past_end]) {
        corrupt(bench, &mut cpu, &slot, &[page], &[bogus])?;
        equal(format!("KVM_RESET_DIRTY_RINGS of entry {bogus:?}"), vm.reset()?, 1)?;
        cpu.touch(&slot, [page])?;
        bench.entries(&format!("entries for the page after {bogus:?}"), &cpu.pending(), &[])?;
    }
    Ok(())
}

fn bogus_batch(bench: &Bench) -> Verdict {
    undisturbed(bench, bogus_batch_once)
}

fn bogus_batch_once(bench: &Bench) -> Verdict {
    let (vm, slot, mut cpu) = rig(bench)?;
    let end = slot.npages;
    corrupt(bench, &mut cpu, &slot, &[end - 2, end - 1], &[(slot.id.raw(), end - 2), (slot.id.raw(), end)])?;
    equal("KVM_RESET_DIRTY_RINGS", vm.reset()?, 2)?;
    cpu.touch(&slot, [end - 2, end - 1])?;
    bench.entries("entries for the pages of the batch", &cpu.pending(), &[])
}

fn repaired(bench: &Bench) -> Verdict {
    undisturbed(bench, repaired_once)
}

fn repaired_once(bench: &Bench) -> Verdict {
    let (vm, mut slot, mut cpu) = rig(bench)?;
    let past_end = (slot.id.raw(), slot.npages);
    corrupt(bench, &mut cpu, &slot, &[3], &[past_end])?;
    equal("KVM_RESET_DIRTY_RINGS of a bogus entry", vm.reset()?, 1)?;
    vm.set_flags(&mut slot, 0)?;
    vm.set_flags(&mut slot, mem::LOG_DIRTY_PAGES)?;
    cpu.touch(&slot, [3])?;
    bench.entries("entries after logging off and on", &cpu.pending(), &slot.logged([3]))
}

/// Touches `pages` and marks their entries as harvested with another payload.
fn corrupt(bench: &Bench, cpu: &mut Cpu, slot: &Slot, pages: &[u64], payloads: &[(u32, u64)]) -> Verdict {
    let at = cpu.fetch();
    cpu.touch(slot, pages.iter().copied())?;
    exactly(bench, "entries for the pages", &cpu.pending(), &slot.logged(pages.iter().copied()))?;
    for (index, &(raw, offset)) in (at..).zip(payloads) {
        let entry = cpu.entry(index)?;
        entry.set_payload(raw, offset);
        entry.set_flags(RESET);
    }
    cpu.skip(payloads.len());
    Ok(())
}

fn unused_entry(bench: &Bench) -> Verdict {
    undisturbed(bench, unused_entry_once)
}

fn unused_entry_once(bench: &Bench) -> Verdict {
    let (vm, slot, mut cpu) = rig(bench)?;
    if let Some(engine) = vm.vm().engine() {
        engine.set_strict(true);
    }
    cpu.entry(0)?.set_flags(RESET);
    equal("KVM_RESET_DIRTY_RINGS of an unused entry", vm.reset()?, 1)?;
    if let Some(engine) = vm.vm().engine() {
        let rules: Vec<Rule> = engine.violations().iter().map(|violation| violation.rule).collect();
        ensure("what strict mode says", rules.contains(&Rule::ResetOfUnused), "ResetOfUnused", rules)?;
    }
    cpu.touch(&slot, [0])?;
    exactly(bench, "the kernel's next entry", &cpu.harvest_all(), &slot.logged([0]))?;
    equal("KVM_RESET_DIRTY_RINGS, which looks one entry further on", vm.reset()?, 0)
}
