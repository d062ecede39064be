//! A store that cannot take an image, and a writer that dies while it writes one: the guest runs on, earlier images
//! stay, and no page is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::process::Running;
use common::small_disk::SmallDisk;
use common::{Home, hypervisors};
use ringmark_control::{CheckpointRequest, Client, Phase};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

/// A checkpoint that finds the disk full, all that has to be true afterwards, and the next one, with room again.
fn full_disk(test: &str, hypervisor: &str, hot: &str, free: u64, full: bool) {
    let Some(disk) = SmallDisk::new(test, "16M") else { return };
    let home = Home::with_store(disk.path().join("store"));
    let (wish, hot) = (format!("--hypervisor={hypervisor}"), format!("--hot={hot}"));
    // Every cut is audited: a page that the failed checkpoint takes with it fails the next one.
    let mut vm1 = home.machine("vm1", &["run", "--guest=uniform", "--memory=64M", &hot, "--audit", &wish]);
    home.run(&["checkpoint", "vm1"]).succeeded();
    let before = home.images("vm1");

    let filler = disk.fill(free);
    for _ in 0..2 {
        home.writes_on("vm1");
        let args = ["checkpoint", "vm1", "--full"];
        let done = home.run(if full { &args } else { &args[..2] });
        done.fails_with_guest(8, "runs on", &["No space left", "free space", "earlier images are intact"]);
        assert!(done.stdout.is_empty(), "{done:#?}");
    }
    home.writes_on("vm1");
    assert_eq!(home.images("vm1"), before, "no half an image");
    assert_eq!(home.leftovers(), 0, "what was written of the image is gone");
    home.run(&["verify"]).succeeded();

    fs::remove_file(filler).unwrap();
    let next = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
    assert_eq!(next["escapes"], 0, "{next}");
    if !full {
        assert_eq!(
            next["parent"].as_str(),
            Some(before[0].as_str()),
            "it goes on from the newest image there is"
        );
    }
    let after = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
    assert_eq!((&after["escapes"], &after["parent"]), (&0.into(), &next["image"]));
    vm1.kill();

    home.run(&["verify"]).succeeded();
    for image in [after["image"].as_str().unwrap(), next["image"].as_str().unwrap(), &before[0]] {
        let _machine = home.machine("vm2", &["restore", image]);
        home.is_whole("vm2");
    }
}

#[test]
fn the_disk_is_full_while_an_increment_is_written() {
    let test = "the_disk_is_full_while_an_increment_is_written";
    for hypervisor in hypervisors(test) {
        full_disk(test, hypervisor, "16M", 64 << 10, false);
    }
}

#[test]
fn the_disk_is_full_before_anything_is_written() {
    let test = "the_disk_is_full_before_anything_is_written";
    for hypervisor in hypervisors(test) {
        full_disk(test, hypervisor, "4M", 0, false);
    }
}

/// More pages than are held in memory go to the disk while the guest runs.
#[test]
fn the_disk_is_full_before_the_cut() {
    let test = "the_disk_is_full_before_the_cut";
    for hypervisor in hypervisors(test) {
        full_disk(test, hypervisor, "48M", 64 << 10, false);
    }
}

#[test]
fn the_disk_is_full_while_a_base_is_written() {
    let test = "the_disk_is_full_while_a_base_is_written";
    full_disk(test, "engine", "16M", 64 << 10, true);
}

/// A limit on the size of files is to a store what a full disk is.
#[test]
fn a_file_size_limit_is_a_full_disk() {
    let home = Home::new();
    let args = ["run", "--guest=uniform", "--memory=64M", "--hot=16M", "--hypervisor=engine", "--audit"];
    let machine = home.machine("vm1", &args);
    home.run(&["checkpoint", "vm1"]).succeeded();
    home.writes_on("vm1");

    let limit = |bytes| {
        let limit = Rlimit { current: bytes, ..getrlimit(Resource::Fsize) };
        prlimit(Some(machine.process()), Resource::Fsize, limit).unwrap();
    };
    limit(Some(16 << 10));
    home.run(&["checkpoint", "vm1"]).fails_with_guest(8, "runs on", &["File too large", "earlier images"]);
    home.writes_on("vm1");
    limit(None);
    let next = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
    assert_eq!(next["escapes"], 0, "{next}");
    home.run(&["verify"]).succeeded();
}

/// Kills the machine when its checkpoint reaches `phase`.
fn killed_at(home: &Home, machine: &mut Running, phase: Phase) {
    let client = Client::connect(home.socket("vm1")).unwrap();
    home.writes_on("vm1");
    let pid = machine.process();
    let died = client.checkpoint(&CheckpointRequest::default(), |at| {
        if at.phase == phase {
            // It may be dead from an earlier report of the same phase.
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    machine.kill();
    // The answer of a machine that was complete with it just before it died is still an answer.
    assert!(died.is_err() || phase == Phase::Syncing, "{died:?}");
}

fn killed_writer(hypervisor: &str) {
    let home = Home::new();
    let wish = format!("--hypervisor={hypervisor}");
    let mut machine = home.machine("vm1", &["run", "--guest=uniform", "--memory=128M", "--hot=48M", &wish]);
    home.run(&["checkpoint", "vm1"]).succeeded();
    let mut unfinished = 0;
    for phase in [Phase::Copying, Phase::Paused, Phase::Writing, Phase::Syncing] {
        let before = home.images("vm1");
        killed_at(&home, &mut machine, phase);
        let after = home.images("vm1");
        assert_eq!(after[..before.len()], before, "{phase}: earlier images stay");
        unfinished += home.leftovers();
        home.run(&["verify"]).succeeded();

        machine = home.machine("vm1", &["restore", "vm1", &wish]);
        home.is_whole("vm1");
        let next = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
        assert_eq!(next["parent"].as_str(), after.last().map(String::as_str), "{phase}");
        assert_eq!(home.leftovers(), 0, "{phase}: the next writer removes what the dead one left");
        home.run(&["verify"]).succeeded();
    }
    assert!(unfinished > 0, "no kill met an image that was being written");
    // Every image ever completed still is one.
    let images = home.images("vm1");
    let _first = home.machine("vm2", &["restore", &images[0], &wish]);
    home.is_whole("vm2");
}

#[test]
fn a_writer_killed_in_the_midst_of_a_checkpoint() {
    for hypervisor in hypervisors("a_writer_killed_in_the_midst_of_a_checkpoint") {
        killed_writer(hypervisor);
    }
}
