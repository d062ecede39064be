//! A machine in the foreground: its console, and the ways in which it ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::process::Stdio;

use common::elf::{self, Class, EM_X86_64};
use common::process::Running;
use common::{Home, hypervisors, kvm, wait_for};
use ringmark_control::Client;
use rustix::process::{Signal, kill_process};

/// A kernel of nothing but `code`, in 32-bit protected mode.
fn kernel(home: &Home, code: &[u8]) -> String {
    let segments = [elf::load(0x20_0000, 4096, code), elf::pvh_note(0x20_0000, 4)];
    format!("--kernel={}", home.file("kernel", &elf::image(Class::Elf64, EM_X86_64, &segments)).display())
}

#[test]
fn a_signal_ends_the_machine_in_order() {
    for hypervisor in hypervisors("a_signal_ends_the_machine_in_order") {
        for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
            let home = Home::new();
            let machine = home.small_machine(hypervisor);
            home.run(&["checkpoint", "vm1"]).succeeded();
            kill_process(machine.process(), signal).unwrap();
            let done = machine.end().succeeded();
            assert!(done.stderr.contains(name) && done.stderr.contains("images are intact"), "{done:#?}");
            assert!(!home.socket("vm1").exists(), "it takes its socket with it");
            home.run(&["verify"]).succeeded();
        }
    }
}

#[test]
fn a_machine_is_stopped_by_its_socket() {
    for hypervisor in hypervisors("a_machine_is_stopped_by_its_socket") {
        let home = Home::new();
        let machine = home.small_machine(hypervisor);
        Client::connect(home.socket("vm1")).unwrap().stop().unwrap();
        let done = machine.end().succeeded();
        assert!(done.stderr.contains("was stopped"), "{done:#?}");
        assert!(!home.socket("vm1").exists());
    }
}

#[test]
fn a_paused_machine_is_checkpointed_as_it_is() {
    for hypervisor in hypervisors("a_paused_machine_is_checkpointed_as_it_is") {
        let home = Home::new();
        let mut machine = home.small_machine(hypervisor);
        let client = Client::connect(home.socket("vm1")).unwrap();
        client.pause().unwrap();
        home.run(&["checkpoint", "vm1"]).succeeded();
        // No vCPU writes while it stands still; a device of the monitor's may.
        let next = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
        assert_eq!(next["by_source"]["ring"], 0, "{next}");
        client.resume().unwrap();
        home.writes_on("vm1");
        machine.kill();
        let _restored = home.machine("vm2", &["restore", "vm1"]);
        home.is_whole("vm2");
    }
}

#[test]
fn a_guest_that_ends_itself() {
    if !kvm("a_guest_that_ends_itself") {
        return;
    }
    let home = Home::new();
    let run = |code: &[u8]| home.run(&["run", "--memory=16M", &kernel(&home, code)]);
    // mov al, code; out 0xf4, al
    assert!(run(&[0xb0, 0, 0xe6, 0xf4]).succeeded().stderr.contains("ended with code 0"));
    let ended = run(&[0xb0, 3, 0xe6, 0xf4]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("the guest ended with code 3"), "{ended:#?}");
    // mov al, 0xfe; out 0x64, al: the keyboard controller's reset line
    assert!(run(&[0xb0, 0xfe, 0xe6, 0x64]).succeeded().stderr.contains("the guest shut down"));
    // ud2, without an interrupt table
    let fault = run(&[0x0f, 0x0b]);
    assert_eq!(fault.code, Some(1));
    assert!(fault.stderr.contains("triple fault"), "{fault:#?}");
    assert!(!home.socket("vm1").exists());
}

#[test]
fn what_is_typed_reaches_the_guest_and_comes_back() {
    if !kvm("what_is_typed_reaches_the_guest_and_comes_back") {
        return;
    }
    // 0: mov dx, 0x3fd; in al, dx; test al, 1; jz 0; mov dx, 0x3f8; in al, dx; out dx, al; jmp 0
    let echo = [
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef,
    ];
    let home = Home::new();
    let mut command = home.command(&["run", "--memory=16M", "--quiet", &kernel(&home, &echo)]);
    command.stdin(Stdio::piped());
    let mut machine = Running::start(command);
    let mut keyboard = machine.keyboard();
    let typed: Vec<String> =
        (0..20).map(|line| format!("line {line} of what is typed at a console")).collect();
    keyboard.write_all((typed.join("\n") + "\n").as_bytes()).unwrap();
    // More than the port's buffer holds, so some of it waits for its turn.
    wait_for("the echo", || Some(machine.lines(0)).filter(|lines| lines.len() >= typed.len()));
    assert_eq!(machine.lines(0), typed);
    assert_eq!(machine.stderr(), "", "quiet");
    // The end of input is not the end of the machine.
    drop(keyboard);
    home.run(&["checkpoint", "vm1"]).succeeded();
    machine.kill();
}
