//! Machines that move to another process of the same host with their memory as it is.

mod common;

use common::passage::Passage;
use common::process::Running;
use common::{Home, at_once, kvm, wait_for};
use ringmark_control::GuestState;

const BY_DESCRIPTOR: &str = "--memory=descriptor";

/// A machine whose memory may be handed over: on KVM, with no interrupt translation service.
fn machine(home: &Home) -> Running {
    home.machine("vm1", &["run", "--guest=uniform", "--memory=16M", "--hot=1M", "--hypervisor=kvm"])
}

#[test]
fn a_guest_moves_back_and_forth_by_descriptor() {
    if !kvm("a_guest_moves_back_and_forth_by_descriptor") {
        return;
    }
    let home = Home::new();
    let mut running = machine(&home);
    let names = ["vm1", "vm2"];
    for number in 0..10 {
        let (from, to) = (names[number % 2], names[(number + 1) % 2]);
        let receiver = home.unix_receiver(to, &[]);
        // What both sides can is done where nothing else is asked for.
        let options: &[&str] = match number % 3 {
            0 => &[],
            1 => &[BY_DESCRIPTOR, "--verify=full"],
            _ => &[BY_DESCRIPTOR],
        };
        let report = home.migrate(from, &receiver.address, options).succeeded().json();
        assert_eq!(report["memory"], "descriptor", "{report:#}");
        assert_eq!(report["verified"], if number % 3 == 1 { "full" } else { "same-memory" });
        assert_eq!(report["ram"]["transferred"], 0, "{report:#}");
        assert_eq!(report["rounds"].as_array().unwrap().len(), 0, "{report:#}");
        let parts = report["downtime-breakdown"].as_object().unwrap();
        let sum: f64 = parts.values().map(|part| part.as_f64().unwrap()).sum();
        assert!((sum - report["downtime"].as_f64().unwrap()).abs() < 0.01, "{report:#}");
        std::mem::replace(&mut running, receiver.process).end().succeeded();
        home.lives_on(to);
    }
}

/// What was handed over is a machine like any other: it is checkpointed, restored, and copied away.
#[test]
fn what_arrived_by_descriptor_is_checkpointed_and_moves_on() {
    if !kvm("what_arrived_by_descriptor_is_checkpointed_and_moves_on") {
        return;
    }
    let home = Home::new();
    let source = machine(&home);
    home.run(&["checkpoint", "vm1"]).succeeded();
    let receiver = home.unix_receiver("vm2", &["--audit"]);
    let done = home.run(&["migrate", "vm1", &receiver.address, BY_DESCRIPTOR]).succeeded();
    assert!(done.stdout.contains("memory handed over by descriptor"), "{done:#?}");
    source.end().succeeded();
    home.writes_on("vm2");
    let base = home.run(&["checkpoint", "vm2", "--json"]).succeeded().json();
    assert!(base["parent"].is_null(), "{base:#}");
    home.writes_on("vm2");
    let increment = home.run(&["checkpoint", "vm2", "--json"]).succeeded().json();
    assert_eq!(increment["parent"], base["image"], "{increment:#}");
    let _restored = home.machine("vm3", &["restore", "vm2"]);
    home.lives_on("vm3");
    let copied = home.receiver("vm4", "tcp:127.0.0.1:0", &[]);
    let report = home.migrate("vm2", &copied.address, &[]).succeeded().json();
    assert_eq!(report["memory"], "copy", "{report:#}");
    home.lives_on("vm4");
}

/// The guest runs on, with all that was written since its last checkpoint in the tracker.
#[test]
fn a_handover_that_fails_costs_the_next_checkpoint_nothing() {
    if !kvm("a_handover_that_fails_costs_the_next_checkpoint_nothing") {
        return;
    }
    let home = Home::new();
    let options = ["run", "--guest=uniform", "--memory=16M", "--hot=1M", "--hypervisor=kvm"];
    // Each cut is audited: a page that was written and is not in the next checkpoint is found.
    let _source = home.machine("vm1", &[&options[..], &["--audit"]].concat());
    let base = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
    home.writes_on("vm1");
    let receiver = home.unix_receiver("vm2", &[]);
    let cut = Passage::cut(&home, "prepare", &receiver);
    home.migrate("vm1", &cut.address, &[BY_DESCRIPTOR]).fails_with_guest(15, "runs on", &["lost"]);
    home.writes_on("vm1");
    let increment = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
    assert_eq!(increment["parent"], base["image"], "{increment:#}");
    let _restored = home.machine("vm3", &["restore", "vm1"]);
    home.lives_on("vm3");
    home.lives_on("vm1");
}

#[test]
fn memory_that_cannot_be_handed_over_is_copied_or_stays() {
    let home = Home::new();
    let _source = home.small_machine("engine");
    let receiver = home.unix_receiver("vm2", &[]);
    let refused = home.migrate("vm1", &receiver.address, &[BY_DESCRIPTOR]);
    refused.fails_with_guest(14, "runs on", &["by descriptor", "engine", "--memory copy"]);
    let tcp = home.receiver("vm3", "tcp:127.0.0.1:0", &[]);
    let refused = home.migrate("vm1", &tcp.address, &[BY_DESCRIPTOR]);
    refused.fails_with_guest(14, "runs on", &["Unix sockets"]);
    home.lives_on("vm1");
    let report = home.migrate("vm1", &receiver.address, &[]).succeeded().json();
    assert_eq!(report["memory"], "copy", "{report:#}");
    assert!(report["copied-because"].as_str().unwrap().contains("engine"), "{report:#}");
    home.lives_on("vm2");
    if !kvm("memory_that_cannot_be_handed_over_is_copied_or_stays (on KVM)") {
        return;
    }
    // What a clone has written is in its own mapping, and not in the file.
    let home = Home::new();
    let mut original = machine(&home);
    home.writes_on("vm1");
    home.run(&["checkpoint", "vm1"]).succeeded();
    original.kill();
    let _clones = Running::start(home.command(&["restore", "vm1", "--name=web", "--clones=2"]));
    home.wait_for_guest("web-1", GuestState::Running);
    home.writes_on("web-1");
    let receiver = home.unix_receiver("vm2", &[]);
    let refused = home.migrate("web-1", &receiver.address, &[BY_DESCRIPTOR]);
    refused.fails_with_guest(14, "runs on", &["clone"]);
    let report = home.migrate("web-1", &receiver.address, &[]).succeeded().json();
    assert_eq!(report["memory"], "copy", "{report:#}");
    home.lives_on("vm2");
}

/// As where pages are sent: before the commit the source runs on by itself; afterwards a person has to say, or the destination
/// runs already.
#[test]
fn a_link_that_dies_leaves_one_guest() {
    if !kvm("a_link_that_dies_leaves_one_guest (by descriptor)") {
        return;
    }
    let messages =
        ["offer", "want-memory-file", "memory-file", "accept", "prepare", "prepared", "commit", "running"];
    // A person may decide for either.
    let cases = messages.map(|message| (message, "vm1")).into_iter().chain([("commit", "vm2")]);
    at_once(cases, |(message, runs)| {
        let home = Home::new();
        let source = machine(&home);
        let receiver = home.unix_receiver("vm2", &[]);
        let cut = Passage::cut(&home, message, &receiver);
        let sent = home.migrate("vm1", &cut.address, &[BY_DESCRIPTOR]);
        assert!(cut.is_reached(), "{message}: {sent:#?}");
        match message {
            "commit" => {
                home.nobody_runs(sent);
                // Its memory may be the other's by now.
                assert_ne!(home.run(&["checkpoint", "vm1"]).code, Some(0));
                let given_up = if runs == "vm1" { "vm2" } else { "vm1" };
                home.run(&["migrate", given_up, "--decide=discard"]).succeeded();
                home.run(&["migrate", runs, "--decide=run"]).succeeded();
                home.lives_on(runs);
            }
            "running" => {
                sent.fails_with_guest(17, "stands still", &["--decide"]);
                home.lives_on("vm2");
                assert_eq!(home.guest("vm1"), Some(GuestState::Undecided));
                home.run(&["migrate", "vm1", "--decide=discard"]).succeeded();
                source.end().succeeded();
                home.lives_on("vm2");
            }
            "prepared" => {
                sent.fails_with_guest(15, "runs on", &["lost"]);
                home.lives_on("vm1");
                home.wait_for_guest("vm2", GuestState::Undecided);
                home.run(&["migrate", "vm2", "--decide=discard"]).succeeded();
                home.lives_on("vm1");
            }
            _ => {
                sent.fails_with_guest(15, "runs on", &[]);
                home.lives_on("vm1");
                assert_ne!(home.guest("vm2"), Some(GuestState::Running), "{message}");
            }
        }
    });
}

/// Killed at each message. The memory is there as long as one of them has it.
#[test]
fn a_side_that_is_killed_leaves_one_guest() {
    if !kvm("a_side_that_is_killed_leaves_one_guest (by descriptor)") {
        return;
    }
    at_once(["memory-file", "accept", "prepare", "prepared", "commit", "running"], |message| {
        let home = Home::new();
        let mut source = machine(&home);
        let receiver = home.unix_receiver("vm2", &[]);
        let way = Passage::hold(&home, message, &receiver);
        let sender = Running::start(home.command(&["migrate", "vm1", &way.address, BY_DESCRIPTOR]));
        way.wait();
        source.kill();
        way.end();
        assert_eq!(sender.end().code, Some(1));
        match message {
            "running" => home.lives_on("vm2"),
            "prepared" | "commit" => {
                home.wait_for_guest("vm2", GuestState::Undecided);
                home.run(&["migrate", "vm2", "--decide=run"]).succeeded();
                home.lives_on("vm2");
            }
            _ => {
                wait_for("the receiver to wait for another", || {
                    receiver.process.stderr().contains("waiting for the next").then_some(())
                });
                assert_eq!(home.guest("vm2"), None, "{message}: half a machine answers");
            }
        }
    });
    // A destination that is killed when it runs the guest takes it with it, as any process does.
    at_once(["memory-file", "accept", "prepare", "prepared", "commit"], |message| {
        let home = Home::new();
        let _source = machine(&home);
        let mut receiver = home.unix_receiver("vm2", &[]);
        let way = Passage::hold(&home, message, &receiver);
        let sender = Running::start(home.command(&["migrate", "vm1", &way.address, BY_DESCRIPTOR]));
        way.wait();
        receiver.process.kill();
        way.end();
        if message == "commit" {
            sender.end().fails_with_guest(17, "stands still", &["--decide"]);
            home.run(&["migrate", "vm1", "--decide=run"]).succeeded();
        } else {
            sender.end().fails_with_guest(15, "runs on", &[]);
        }
        home.lives_on("vm1");
        let again = home.unix_receiver("vm2", &[]);
        home.migrate("vm1", &again.address, &[BY_DESCRIPTOR]).succeeded();
        home.lives_on("vm2");
    });
}
