//! Destinations that have an old image of the machine.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::process::{Done, Running};
use common::{Home, hypervisors, kvm, wait_for};
use ringmark_control::GuestState;
use serde_json::Value;

/// A machine of which every hot page was written.
fn machine(home: &Home, name: &str, hypervisor: &str, memory: &str) -> Running {
    let (hypervisor, memory) = (format!("--hypervisor={hypervisor}"), format!("--memory={memory}"));
    let machine = home.machine(name, &["run", "--guest=sequential", "--hot=12M", &hypervisor, &memory]);
    wait_for("the guest to have written everything", || {
        let status = home.client(name).status().unwrap();
        (status.guest_pages_written.unwrap() >= 2 * (12 << 20) / status.page_size).then_some(())
    });
    machine
}

/// Sends `vm1` to a receiver with `options`, and gives its report and what the receiver said.
fn arrive(home: &Home, options: &[&str]) -> (Value, Done) {
    let receiver = home.unix_receiver("there", options);
    let report =
        home.migrate("vm1", &receiver.address, &["--memory=copy", "--verify=full"]).succeeded().json();
    home.wait_for_guest("there", GuestState::Paused);
    home.client("there").resume().unwrap();
    home.lives_on("there");
    home.client("there").stop().unwrap();
    (report, receiver.process.end().succeeded())
}

fn of_ram(report: &Value, what: &str) -> u64 {
    report["ram"][what].as_u64().unwrap()
}

#[test]
fn what_the_image_has_is_not_sent() {
    for hypervisor in hypervisors("what_the_image_has_is_not_sent") {
        let transferred = |seeded: bool| {
            let home = Home::new();
            let _source = machine(&home, "vm1", hypervisor, "24M");
            // What is sent is what the image has otherwise, and not what was written meanwhile.
            home.client("vm1").pause().unwrap();
            home.run(&["checkpoint", "vm1"]).succeeded();
            let options: &[&str] = if seeded { &["--seed=vm1"] } else { &[] };
            let (report, _) = arrive(&home, options);
            assert_eq!(of_ram(&report, "known") > 0, seeded, "{report:#}");
            of_ram(&report, "transferred")
        };
        let (with, without) = (transferred(true), transferred(false));
        assert!(with < without / 4, "{with} of {without} bytes");
    }
}

#[test]
fn an_old_image_loses_nothing_of_what_was_written_since() {
    for hypervisor in hypervisors("an_old_image_loses_nothing_of_what_was_written_since") {
        let home = Home::new();
        let _source = machine(&home, "vm1", hypervisor, "24M");
        let taken = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
        home.lives_on("vm1");
        let seed = format!("--seed={}", &taken["image"].as_str().unwrap()[..12]);
        let receiver = home.unix_receiver("there", &[&seed]);
        let report = home.migrate("vm1", &receiver.address, &["--memory=copy", "--audit"]).succeeded().json();
        assert!(of_ram(&report, "transferred") > 0, "{report:#}");
        home.lives_on("there");
        // What arrived is in no image yet, whatever it began with.
        let taken = home.run(&["checkpoint", "there", "--json"]).succeeded().json();
        assert!(taken["parent"].is_null(), "{taken:#}");
    }
}

/// Memory that is handed over as it is needs no old image, and must not be filled from one: it is the running guest's.
#[test]
fn a_seed_is_left_alone_where_memory_is_handed_over() {
    if !kvm("a_seed_is_left_alone_where_memory_is_handed_over") {
        return;
    }
    let home = Home::new();
    let _source = machine(&home, "vm1", "kvm", "24M");
    home.run(&["checkpoint", "vm1"]).succeeded();
    home.lives_on("vm1");
    let receiver = home.unix_receiver("there", &["--seed=vm1"]);
    let report = home.migrate("vm1", &receiver.address, &["--verify=full"]).succeeded().json();
    assert_eq!((&report["memory"], of_ram(&report, "known")), (&"descriptor".into(), 0), "{report:#}");
    home.lives_on("there");
}

#[test]
fn a_wrong_seed_is_of_no_use_and_does_no_harm() {
    let home = Home::new();
    let other = machine(&home, "other", "engine", "24M");
    let small = machine(&home, "small", "engine", "16M");
    for name in ["other", "small"] {
        home.run(&["checkpoint", name]).succeeded();
        home.client(name).stop().unwrap();
    }
    other.end().succeeded();
    small.end().succeeded();
    for (seed, word) in [("--seed=other", ""), ("--seed=small", "of no use as a seed")] {
        let _source = machine(&home, "vm1", "engine", "24M");
        home.client("vm1").pause().unwrap();
        let (report, done) = arrive(&home, &[seed]);
        // What another machine of the layout has in common with this one is known all the same.
        assert!(
            of_ram(&report, "normal") > 0 && (word.is_empty() || of_ram(&report, "known") == 0),
            "{report:#}"
        );
        assert!(done.stderr.contains(word), "{done:#?}");
    }
    let none = home.run(&["receive", "unix:/nowhere", "--seed=nobody"]);
    none.fails_with_guest(10, "none has arrived", &["nobody"]);
}

#[test]
fn a_damaged_seed_does_not_reach_the_guest() {
    let home = Home::new();
    let source = machine(&home, "vm1", "engine", "24M");
    home.client("vm1").pause().unwrap();
    let images = [(); 3].map(|()| {
        let taken = home.run(&["checkpoint", "vm1", "--full", "--json"]).succeeded().json();
        taken["image"].as_str().unwrap().to_owned()
    });
    let [flipped, truncated, foreign] = images.each_ref().map(String::as_str);
    // What is wrong with the image as a whole is found before anything is waited for.
    home.truncate(truncated, "packs");
    home.flip(foreign, "images");
    for id in [truncated, foreign] {
        let damaged = home.run(&["receive", "unix:/nowhere", &format!("--seed={id}")]);
        damaged.fails_with_guest(3, "none has arrived", &[]);
    }
    // Pages that are not what they were are found as they are read.
    home.flip(flipped, "packs");
    let (report, done) = arrive(&home, &[&format!("--seed={flipped}")]);
    assert!(done.stderr.contains("the rest comes from the source"), "{done:#?}");
    assert!(of_ram(&report, "normal") > 0, "{report:#}");
    source.end().succeeded();
}
