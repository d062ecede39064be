//! The bare-metal program on arm64's KVM.
#![cfg(all(target_arch = "aarch64", target_os = "linux"))]

mod machine;
#[path = "../boot/memory.rs"]
mod memory;

use machine::{Machine, PAGE, Plan, Saved, system};
use ringmark_guest::arm64::ENTRY;
use ringmark_guest::{Control, DamageKind, Interrupts, Pattern, Report};
use ringmark_kvm::System;

/// As many devices and events as a machine has unless it is told otherwise.
const WHOLE: Plan = Plan {
    vcpus: 2,
    pages: 64,
    pattern: Pattern::Uniform,
    its: Some([2, Interrupts::DEVICES, Interrupts::EVENTS]),
};
const SMALL: Plan = Plan { its: Some([2, 16, 4]), ..WHOLE };

#[test]
fn without_an_interrupt_controller_it_leaves_interrupts_alone() {
    let Some(system) = system("without_an_interrupt_controller_it_leaves_interrupts_alone") else { return };
    let mut machine = Machine::new(&system, Plan { its: None, ..WHOLE });
    machine.write(500);
    let [guest, outside] = machine.check();
    assert!(guest.is_ok() && guest.lanes > 0, "{guest}");
    assert_eq!(outside, guest);
}

#[test]
fn certificates_are_written_at_el0_and_interrupts_taken() {
    let Some(system) = system("certificates_are_written_at_el0_and_interrupts_taken") else { return };
    let mut machine = Machine::new(&system, WHOLE);
    machine.write(100);
    assert_eq!(machine.printed(), "ringmark guest: 2 vCPUs, 64 pages, pattern uniform\n");
    machine.take_interrupts(100);
    let (raised, taken) = machine.tally();
    eprintln!("{taken} of {raised} interrupts taken");
    assert!(raised >= taken, "{taken} of {raised} interrupts taken");

    // Wherever it is stopped, a vCPU is at EL0, or in what comes first in the image: the handlers.
    let mut at_el0 = 0;
    while at_el0 < 20 {
        machine.write(50);
        for (level, pc) in machine.places() {
            assert!(level == 0 || (ENTRY..ENTRY + PAGE).contains(&pc), "at EL{level} at {pc:#x}");
            at_el0 += u64::from(level == 0);
        }
    }

    let lines = machine.interrupts.expect("interrupts").lines();
    assert_eq!(lines, 1024);
    // What the first check finds raised is not known: where it was stopped, the first vCPU may have some left to raise.
    // Between the two checks no program goes on.
    let tallies = [(); 2].map(|()| {
        let [guest, outside] = machine.check();
        assert!(guest.is_ok() && guest.lanes > 0, "{guest}");
        assert_eq!(outside, guest, "the programs hold, so both see the same");
        machine.tally()
    });
    let [(raised, taken), second] = tallies;
    assert_eq!(raised, taken, "nothing is on its way after a check");
    assert_eq!(second, (raised + lines, raised + lines), "each event was raised once, and taken");

    machine.write(500);
    machine.tell(Control::STOP);
    assert_eq!(machine.run_while(|_| true), 2, "all vCPUs have ended");
    let printed = machine.printed();
    assert_eq!(printed.matches("halted with [0, 0, 0, 0]").count(), 2, "{printed:?}");
}

#[test]
fn interrupts_arrive_in_another_vm_three_times_in_a_row() {
    let Some(system) = system("interrupts_arrive_in_another_vm_three_times_in_a_row") else { return };
    let mut machine = Machine::new(&system, SMALL);
    for checkpoint in 0..3 {
        let pending = machine.write_until_pending();
        let saved = machine.save();
        assert_ne!(saved.pending.as_slice(), [], "some are in the tables");
        drop(machine);
        machine = Machine::restore(&system, SMALL, &saved);
        let [guest, outside] = machine.check();
        eprintln!("checkpoint {checkpoint}: {pending} interrupts on their way; {guest}");
        assert!(guest.is_ok() && guest.lanes > 0, "{guest}");
        assert!(outside.is_ok(), "{outside}");
        // Where it was saved, it goes on all the same.
        machine.write(600);
    }
}

/// What a machine finds that is restored from `saved`, whose memory something may have been done to.
fn check_of(system: &System, saved: &Saved) -> Report {
    let mut machine = Machine::restore(system, SMALL, saved);
    let [guest, _] = machine.check();
    eprintln!("{guest}");
    guest
}

fn names(report: &Report, gpa: u64) -> bool {
    let kinds = [DamageKind::InterruptLost, DamageKind::InterruptRepeated];
    report.damages().any(|damage| kinds.contains(&damage.kind) && damage.gfn == gpa / PAGE)
}

/// The other way round: an image that lacks a page of a table, of any kind, must be found out.
#[test]
fn a_lost_page_of_a_table_is_named() {
    let Some(system) = system("a_lost_page_of_a_table_is_named") else { return };
    let mut machine = Machine::new(&system, SMALL);
    machine.write(1000);
    let older = machine.save();
    // The last of them is the last ITS's page of translation tables.
    let &[.., entries] = older.tables.as_slice() else { panic!("saving the tables writes memory") };
    machine.write(5000);
    machine.write_until_pending();
    let saved = machine.save();
    assert!(saved.tables.contains(&entries), "mappings have changed");
    drop(machine);

    let newer = saved.memory.page(entries);
    saved.memory.put_page(entries, &older.memory.page(entries));
    let report = check_of(&system, &saved);
    assert!(names(&report, entries), "a page of entries that is older: {report}");
    saved.memory.put_page(entries, &[0; 512]);
    let report = check_of(&system, &saved);
    assert!(names(&report, entries), "a page of entries that was never written: {report}");
    saved.memory.put_page(entries, &newer);

    let pending: Vec<_> = saved.pending.iter().map(|&gpa| (gpa, saved.memory.page(gpa))).collect();
    pending.iter().for_each(|(gpa, _)| saved.memory.put_page(*gpa, &[0; 512]));
    let report = check_of(&system, &saved);
    assert!(
        report.damages().any(|damage| damage.kind == DamageKind::InterruptLost),
        "pending bits: {report}"
    );
    pending.iter().for_each(|(gpa, page)| saved.memory.put_page(*gpa, page));

    assert!(check_of(&system, &saved).is_ok(), "nothing is lost when nothing was taken away");
}
