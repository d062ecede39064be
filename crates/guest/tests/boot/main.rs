//! The bare-metal program on the host's own `/dev/kvm`.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod machine;
mod memory;

use std::thread;
use std::time::{Duration, Instant};

use machine::{Machine, huge_pages, kvm};
use memory::{GuestMemory, View};
use ringmark_guest::{
    Config, Control, DamageKind, MAILBOX, Pattern, Report, State, Status, check_result, inspect,
    publish_device, request_check,
};

const MEMORY: usize = 64 << 20;
const PAGE: u64 = 4096;
const LINE: &str = "ringmark.mailbox=0x10000";

fn config(vcpus: u8, pages: u64, pattern: Pattern) -> Config {
    let wanted = Config {
        mailbox: MAILBOX,
        page_size: PAGE,
        hot: 0,
        pages,
        ledger: 0,
        writers: u64::from(vcpus),
        pattern,
        pace: 0,
        seed: 77,
    };
    wanted.place(4 << 20, MEMORY as u64).expect("room for the hot region")
}

fn start(test: &str, vcpus: u8, pages: u64, pattern: Pattern, irqchip: bool) -> Option<(Machine, Config)> {
    let kvm = kvm(test)?;
    let memory = GuestMemory::new(0, MEMORY);
    let config = config(vcpus, pages, pattern);
    let Ok(()) = config.publish(&mut View(&memory), Control::RUN);
    let machine = Machine::new(&kvm, memory, vcpus, irqchip, LINE);
    let plural = if vcpus == 1 { "" } else { "s" };
    let greeting = format!("ringmark guest: {vcpus} vCPU{plural}, {pages} pages, pattern {pattern}");
    assert_eq!(machine.line(), greeting);
    Some((machine, config))
}

fn written(machine: &Machine, config: &Config) -> Vec<u64> {
    let written = |writer| {
        let Ok(status) = Status::load(&mut View(&machine.memory), config, writer);
        status.written
    };
    (0..config.writers).map(written).collect()
}

/// Waits until each vCPU has written `more` pages.
fn wait_written(machine: &Machine, config: &Config, more: u64) {
    let before = written(machine, config);
    let deadline = Instant::now() + Duration::from_secs(60);
    while written(machine, config).iter().zip(&before).any(|(now, before)| now - before < more) {
        assert!(Instant::now() < deadline, "a vCPU writes nothing");
        thread::sleep(Duration::from_millis(1));
    }
}

fn check(machine: &Machine, config: &Config) -> Report {
    let view = &mut View(&machine.memory);
    let Ok(number) = request_check(view, config);
    let deadline = Instant::now() + Duration::from_secs(60);
    let report = loop {
        if let Ok(Some(report)) = check_result(view, config, number) {
            break report;
        }
        assert!(Instant::now() < deadline, "the guest does not check");
        thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(machine.line(), format!("check: {report}"));
    report
}

fn outside(machine: &Machine, config: &Config) -> Report {
    let Ok(report) = inspect(&mut View(&machine.memory), config);
    report
}

fn writes_and_checks(test: &str, vcpus: u8, irqchip: bool) {
    for pattern in Pattern::ALL {
        let Some((machine, config)) = start(test, vcpus, 1024, pattern, irqchip) else { return };
        wait_written(&machine, &config, 20_000);
        let report = check(&machine, &config);
        assert!(report.is_ok() && report.lanes > 0, "{pattern}: {report}");
        assert_eq!(outside(&machine, &config), report, "{pattern}: the programs hold, so both see the same");

        let Ok(()) = config.set_control(&mut View(&machine.memory), Control::RUN);
        wait_written(&machine, &config, 20_000);
        let Ok(()) = config.set_control(&mut View(&machine.memory), Control::STOP);
        machine.wait_halted();
        for writer in 0..config.writers {
            let Ok(status) = Status::load(&mut View(&machine.memory), &config, writer);
            assert_eq!((status.state, status.in_flight), (Some(State::Stopped), None));
        }
        assert!(outside(&machine, &config).is_ok());
    }
}

#[test]
fn an_interrupt_controller_in_the_kernel_changes_nothing() {
    writes_and_checks("an_interrupt_controller_in_the_kernel_changes_nothing", 2, true);
}

#[test]
fn one_vcpu_writes_and_checks_itself() {
    writes_and_checks("one_vcpu_writes_and_checks_itself", 1, false);
}

#[test]
fn two_vcpus_write_and_check_themselves() {
    writes_and_checks("two_vcpus_write_and_check_themselves", 2, false);
}

#[test]
fn wherever_the_vcpus_are_stopped_memory_agrees_with_itself() {
    let test = "wherever_the_vcpus_are_stopped_memory_agrees_with_itself";
    let Some((machine, config)) = start(test, 2, 256, Pattern::Uniform, false) else { return };
    let mut in_flight = 0;
    for cut in 0..300 {
        let Ok(_) = publish_device(&mut View(&machine.memory), &config, cut);
        wait_written(&machine, &config, 100);
        machine.pause();
        let report = outside(&machine, &config);
        assert!(report.is_ok(), "cut {cut}: {report}");
        for writer in 0..2 {
            let Ok(status) = Status::load(&mut View(&machine.memory), &config, writer);
            in_flight += u64::from(status.in_flight.is_some());
        }
        machine.resume();
    }
    eprintln!("{in_flight} of 600 vCPUs were stopped in the midst of a page write");
    let report = check(&machine, &config);
    assert!(report.is_ok(), "{report}");
}

/// A page put back to what it was a while ago; the guest and the inspection must both name it.
#[test]
fn a_lost_page_is_named_from_inside_and_outside() {
    let test = "a_lost_page_is_named_from_inside_and_outside";
    let Some((machine, config)) = start(test, 2, 256, Pattern::Sequential, false) else { return };
    let kinds = [
        (DamageKind::PageBehind, config.hot + 17 * PAGE),
        (DamageKind::LedgerBehind, config.ledger + PAGE),
        (DamageKind::StatusBehind, config.status_gpa(1)),
    ];
    for (kind, gpa) in kinds {
        drop_and_find(&machine, &config, kind, gpa);
    }
}

fn drop_and_find(machine: &Machine, config: &Config, kind: DamageKind, gpa: u64) {
    let view = &mut View(&machine.memory);
    wait_written(machine, config, 1000);
    assert!(check(machine, config).is_ok());
    let older = machine.memory.page(gpa);
    let Ok(()) = config.set_control(view, Control::RUN);
    wait_written(machine, config, 2000);
    assert!(check(machine, config).is_ok());

    let newer = machine.memory.page(gpa);
    machine.pause();
    machine.memory.put_page(gpa, &older);
    machine.resume();
    let named =
        |report: &Report| report.damages().any(|damage| damage.kind == kind && damage.gfn == gpa / PAGE);
    let report = outside(machine, config);
    assert!(named(&report), "{kind:?}: {report}");
    let report = check(machine, config);
    assert!(named(&report), "{kind:?}: {report}");

    if kind == DamageKind::StatusBehind {
        return;
    }
    machine.memory.put_page(gpa, &newer);
    assert!(check(machine, config).is_ok());
    let Ok(()) = config.set_control(view, Control::RUN);
}

/// The program's tables map pages of 2 MiB up to 16 GiB, and beyond that pages of 1 GiB where vCPUs have them.
#[test]
fn memory_far_up_is_reached() {
    let Some(kvm) = kvm("memory_far_up_is_reached") else { return };
    let wanted = config(2, 1024, Pattern::Uniform);
    for gib in [3, 5, 17] {
        let start = (gib << 30) - (1 << 20);
        let memory = GuestMemory::new(0, 18 << 30);
        let config = wanted.place(start, start + (1 << 30)).expect("room for the hot region");
        let Ok(()) = config.publish(&mut View(&memory), Control::RUN);
        let machine = Machine::new(&kvm, memory, 2, false, LINE);
        let line = machine.line();
        if gib > 16 && !huge_pages(&kvm) {
            assert_eq!(line, "ringmark guest: the hot region reaches beyond what this vCPU can map");
            continue;
        }
        assert_eq!(line, "ringmark guest: 2 vCPUs, 1024 pages, pattern uniform", "{gib} GiB");
        wait_written(&machine, &config, 10_000);
        let report = check(&machine, &config);
        assert!(report.is_ok() && report.lanes > 0, "{gib} GiB: {report}");
    }
}

#[test]
fn without_a_monitor_it_runs_alone() {
    let Some(kvm) = kvm("without_a_monitor_it_runs_alone") else { return };
    let line = "hot=4M pattern=zipf check=20000";
    let machine = Machine::new(&kvm, GuestMemory::new(0, MEMORY), 1, false, line);
    assert_eq!(machine.line(), "ringmark guest: 1 vCPU, 1024 pages, pattern zipf");
    for _ in 0..3 {
        let line = machine.line();
        assert!(line.starts_with("check: ok, "), "{line}");
    }
}

#[test]
fn it_says_why_it_does_not_run() {
    let Some(kvm) = kvm("it_says_why_it_does_not_run") else { return };
    for (line, part) in [
        ("", "command line: ringmark.mailbox="),
        ("hot=1G", "give the machine more memory or fewer hot pages"),
        ("quiet", "cannot understand 'quiet'"),
        ("ringmark.mailbox=0x20000", "no mailbox at 0x20000"),
    ] {
        let machine = Machine::new(&kvm, GuestMemory::new(0, MEMORY), 2, false, line);
        let printed = machine.line();
        assert!(printed.contains(part), "{line:?} gave {printed:?}");
        machine.wait_halted();
    }
}

/// Prints the rate of page writes without dirty tracking, for one and two vCPUs; asserts nothing about it.
#[test]
fn page_writes_a_second_untracked() {
    for vcpus in [1, 2] {
        let Some((machine, config)) =
            start("page_writes_a_second_untracked", vcpus, 8192, Pattern::Sequential, false)
        else {
            return;
        };
        wait_written(&machine, &config, 2 * 8192);
        let total = || written(&machine, &config).iter().sum::<u64>();
        let (before, begin) = (total(), Instant::now());
        thread::sleep(Duration::from_millis(300));
        let rate = (total() - before) as f64 / begin.elapsed().as_secs_f64();
        eprintln!("{vcpus} vCPU(s), 32 MiB, untracked: {:.2} million page writes a second", rate / 1e6);
    }
}
