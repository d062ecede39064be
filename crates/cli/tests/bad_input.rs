//! What people and disks do wrong at the start of a machine: each gets one clear error with an exit code of its own,
//! and loses nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use common::elf::{self, Class, EM_386, EM_AARCH64, EM_X86_64, Segment};
use common::process::{Done, Running};
use common::{Home, PROGRAM, hypervisors, kvm, skipped, wait_for};
use ringmark_control::Client;
use rustix::process::Pid;

const NOT_STARTED: &str = "not started";

/// Boots `kernel` on KVM with 64 MiB.
fn boot(kernel: &[u8]) -> Done {
    let home = Home::new();
    let kernel = home.file("kernel", kernel);
    let done = home.run(&["run", "--kernel", kernel.to_str().unwrap(), "--memory=64M", "--hypervisor=kvm"]);
    assert!(!home.socket("vm1").exists(), "no machine, no socket");
    done
}

fn elf64(machine: u16, segments: &[Segment]) -> Vec<u8> {
    elf::image(Class::Elf64, machine, segments)
}

/// `mov al, 0xfe; out 0x64, al` at 2 MiB, which switches the machine off, and where to begin.
fn switching_off() -> Vec<Segment> {
    vec![elf::load(0x20_0000, 4096, &[0xb0, 0xfe, 0xe6, 0x64]), elf::pvh_note(0x20_0000, 4)]
}

#[test]
fn a_kernel_file_that_is_not_there() {
    let home = Home::new();
    for hypervisor in ["--hypervisor=auto", "--hypervisor=engine"] {
        let done = home.run(&["run", "--kernel=/nowhere/vmlinux", hypervisor]);
        done.fails_with_guest(9, NOT_STARTED, &["/nowhere/vmlinux", "No such file"]);
    }
}

#[test]
fn kernel_files_that_cannot_be_booted() {
    if !kvm("kernel_files_that_cannot_be_booted") {
        return;
    }
    let refused = |kernel: &[u8], words: &[&str]| boot(kernel).fails_with_guest(9, NOT_STARTED, words);
    refused(b"", &["not an ELF"]);
    refused(b"#!/bin/sh\nexit 0\n", &["not an ELF", "PVH"]);
    // A compressed kernel, as distributions ship it.
    refused(&[b"MZ", &[0; 4096][..]].concat(), &["not an ELF", "vmlinux"]);

    let load = || elf::load(0x20_0000, 4096, &[0xf4]);
    refused(&elf64(EM_X86_64, &[load(), elf::other_note()]), &["no PVH entry", "CONFIG_PVH"]);
    refused(&elf64(EM_X86_64, &[elf::pvh_note(0x20_0000, 4)]), &["no loadable segment"]);
    refused(&elf64(EM_AARCH64, &switching_off()), &["another kind of processor", "183"]);
    refused(&elf::image(Class::Elf32, 8, &switching_off()), &["another kind of processor", "8"]);

    for (address, size) in
        [(1 << 30, 4096), (0x20_0000, 64 << 20), (u64::MAX - 4095, 4096), (0x1000, u64::MAX)]
    {
        let outside = [elf::load(address, size, &[0xf4]), elf::pvh_note(0x20_0000, 4)];
        let words = [&format!("{address:#x}"), "outside guest memory", "--memory"];
        refused(&elf64(EM_X86_64, &outside), &words);
    }
    let shrunk = [elf::load(0x20_0000, 16, &[0xf4; 32]), elf::pvh_note(0x20_0000, 4)];
    refused(&elf64(EM_X86_64, &shrunk), &["damaged", "longer in the file"]);
}

#[test]
fn a_kernel_file_cut_off_anywhere_is_refused() {
    if !kvm("a_kernel_file_cut_off_anywhere_is_refused") {
        return;
    }
    let whole = elf64(EM_X86_64, &switching_off());
    for length in [1, 4, 15, 40, 63, 64, 100, 150, whole.len() - 1] {
        boot(&whole[..length]).fails_with_guest(9, NOT_STARTED, &[]);
    }
    // The whole one is booted, and ends as it means to.
    let done = boot(&whole).succeeded();
    assert!(done.stderr.contains("the guest shut down"), "{done:#?}");
    boot(&elf::image(Class::Elf32, EM_386, &switching_off())).succeeded();
}

#[test]
fn the_engine_cannot_run_a_kernel() {
    let home = Home::new();
    let kernel = home.file("kernel", &elf64(EM_X86_64, &switching_off()));
    let done = home.run(&["run", "--kernel", kernel.to_str().unwrap(), "--hypervisor=engine"]);
    done.fails_with_guest(7, NOT_STARTED, &["engine", "/dev/kvm", "doctor"]);
}

#[test]
fn ring_sizes_that_no_hypervisor_takes() {
    for hypervisor in hypervisors("ring_sizes_that_no_hypervisor_takes") {
        let home = Home::new();
        let wish = format!("--hypervisor={hypervisor}");
        for (size, words) in [
            ("--ring-size=5000", ["5000", "power of two", "4096", "8192"]),
            ("--ring-size=0", ["0 entries", "power of two", "", ""]),
            ("--ring-size=16", ["16 entries", "too small", "4096", ""]),
            ("--ring-size=2147483648", ["2147483648", "too large", "most", ""]),
            ("--ring-size=4294967295", ["4294967295", "power of two", "", ""]),
        ] {
            for tracking in ["--tracking=ring", "--tracking=auto"] {
                let args = ["run", "--guest=uniform", "--memory=16M", "--hot=1M", &wish, tracking, size];
                home.run(&args).fails_with_guest(11, NOT_STARTED, &words);
            }
        }
    }
    let bitmap = ["run", "--guest=uniform", "--tracking=bitmap", "--ring-size=4096"];
    Home::new().run(&bitmap).fails(2, &["--ring-size", "bitmap"]);
}

#[test]
fn memory_and_names_that_no_machine_has() {
    let home = Home::new();
    let run = |args: &[&str]| home.run(&[&["run", "--guest=uniform", "--hypervisor=engine"], args].concat());
    run(&["--memory=1M"]).fails_with_guest(2, NOT_STARTED, &["too few"]);
    run(&["--memory=16777217"]).fails_with_guest(2, NOT_STARTED, &["whole number of pages"]);
    run(&["--memory=16M", "--hot=1G"]).fails_with_guest(2, NOT_STARTED, &["fit"]);
    for name in ["--name=", "--name=../vm1", "--name=.hidden", "--name=two words"] {
        run(&[name]).fails(2, &["no machine's name", "letters"]);
    }
    // What clap refuses it refuses in its own words.
    for args in [&["--memory=12X"][..], &["--vcpus=0"], &["--vcpus=65"], &["--kernel=x"]] {
        assert_eq!(run(args).code, Some(2));
    }
    home.run(&["run"]).fails(2, &["nothing to run", "--kernel", "--guest"]);
}

#[test]
fn a_name_that_is_taken_disturbs_nobody() {
    for hypervisor in hypervisors("a_name_that_is_taken_disturbs_nobody") {
        let home = Home::new();
        let first = home.small_machine(hypervisor);
        let wish = format!("--hypervisor={hypervisor}");
        let again = ["run", "--guest=uniform", "--memory=16M", "--name=vm1", &wish];
        home.run(&again).fails_with_guest(6, "runs on", &["taken", "vm1.sock", "--name"]);

        home.run(&["checkpoint", "vm1"]).succeeded();
        home.run(&["restore", "vm1", &wish]).fails_with_guest(6, "runs on", &["taken", "--name"]);
        let status = Client::connect(home.socket("vm1")).unwrap().status().unwrap();
        assert_eq!(Pid::from_raw(status.pid.try_into().unwrap()), Some(first.process()));
        home.writes_on("vm1");
    }
}

#[test]
fn the_socket_of_a_killed_machine_is_replaced() {
    let home = Home::new();
    let mut first = home.small_machine("engine");
    home.run(&["checkpoint", "vm1"]).succeeded();
    first.kill();
    assert!(home.socket("vm1").exists(), "nobody removed it");
    home.run(&["checkpoint", "vm1"]).fails_with_guest(10, "there is none", &["vm1", "ringmark run"]);

    let second = home.machine("vm1", &["restore", "vm1"]);
    home.run(&["checkpoint", "vm1"]).succeeded();
    assert_eq!(home.images("vm1").len(), 2);
    drop(second);

    // What is no socket is nobody's to remove.
    fs::remove_file(home.socket("vm1")).unwrap();
    fs::write(home.socket("vm1"), "a note").unwrap();
    let done = home.run(&["restore", "vm1"]);
    done.fails_with_guest(1, NOT_STARTED, &["vm1.sock", "not a socket"]);
    assert_eq!(fs::read(home.socket("vm1")).unwrap(), b"a note");
}

#[test]
fn a_machine_that_is_not_there() {
    let home = Home::new();
    home.run(&["checkpoint", "vm7"]).fails_with_guest(
        10,
        "there is none",
        &["vm7", "ringmark run --name vm7"],
    );
    home.run(&["checkpoint", "vm7", "--json"]).fails(10, &["vm7"]);
    home.run(&["checkpoint", "no/name"]).fails(2, &["no machine's name"]);
}

/// A place and a copy of the program that the user `nobody` may use.
fn of_nobody() -> (Home, std::path::PathBuf) {
    let home = Home::new();
    let program = home.dir().join("ringmark-copy");
    fs::copy(PROGRAM, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    chown(home.dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    (home, program)
}

const NOBODY: u32 = 65534;

#[test]
fn without_rights_on_dev_kvm() {
    let test = "without_rights_on_dev_kvm";
    let Ok(device) = fs::metadata("/dev/kvm") else { return skipped(test, "no /dev/kvm") };
    if device.mode() & 0o006 != 0 {
        return skipped(test, "everybody may use this host's /dev/kvm");
    }
    let root = rustix::process::geteuid().is_root();
    if !root && ringmark_kvm::System::open().is_ok() {
        return skipped(test, "this user may use /dev/kvm, and only root can become another");
    }
    let (home, program) = if root { of_nobody() } else { (Home::new(), PROGRAM.into()) };
    let start = |args: &[&str]| {
        let mut command = home.command_of(&program, args);
        if root {
            // Becoming another user also leaves all groups.
            command.uid(NOBODY).gid(NOBODY);
        }
        Running::start(command)
    };
    let guest = ["run", "--guest=uniform", "--memory=16M", "--hot=1M"];
    let done = start(&[&guest[..], &["--hypervisor=kvm"]].concat()).end();
    done.fails_with_guest(7, NOT_STARTED, &["no permission", "/dev/kvm", "group", "usermod"]);

    let kernel = home.file("kernel", &elf64(EM_X86_64, &switching_off()));
    let done = start(&["run", "--kernel", kernel.to_str().unwrap()]).end();
    done.fails_with_guest(7, NOT_STARTED, &["no permission", "/dev/kvm"]);

    let mut machine = start(&[&guest[..], &["--hypervisor=auto"]].concat());
    let socket = home.socket("vm1");
    // The socket is its owner's alone, so that the owner has to ask.
    wait_for("the machine's socket", || socket.exists().then_some(()));
    let taken = wait_for("a checkpoint", || {
        let done = start(&["checkpoint", "vm1", "--json"]).end();
        (done.code != Some(10)).then_some(done)
    });
    taken.succeeded();
    let said = machine.stderr();
    assert!(said.contains("engine") && said.contains("no permission"), "it says why: {said}");
    machine.kill();

    let doctor = start(&["doctor"]).end();
    assert!(doctor.stdout.contains("no permission to open /dev/kvm"), "{doctor:#?}");
}
