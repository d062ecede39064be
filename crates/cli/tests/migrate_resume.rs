//! Migrations whose link is cut, and that go on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::migration::{Cut, Receiver};
use common::{Home, hypervisors, wait_for};
use ringmark_control::GuestState;

/// Sends `vm1` over a link that dies when the destination has confirmed all that the guest does not write over and over.
fn cut(home: &Home, receiver: &Receiver, options: &[&str]) {
    let cut = Cut::in_second_round(receiver);
    let before = kept(receiver);
    let lost = home.migrate("vm1", &cut.address, options);
    assert!(cut.is_dead(), "{lost:#?}");
    lost.fails_with_guest(15, "runs on", &["lost", "--resume"]);
    wait_for("the destination to notice", || (kept(receiver) > before).then_some(()));
    assert_eq!(home.guest("vm2"), Some(GuestState::Arriving));
    home.lives_on("vm1");
}

/// How often the destination has kept what it had.
fn kept(receiver: &Receiver) -> usize {
    receiver.process.stderr().matches("is kept for").count()
}

fn first_round(report: &serde_json::Value) -> u64 {
    report["rounds"][0]["pages"].as_u64().unwrap()
}

#[test]
fn a_migration_goes_on_with_what_the_destination_holds() {
    for hypervisor in hypervisors("a_migration_goes_on_with_what_the_destination_holds") {
        let home = Home::new();
        let source = home.small_machine(hypervisor);
        let all = {
            let status = home.client("vm1").status().unwrap();
            status.memory / status.page_size
        };
        home.run(&["checkpoint", "vm1"]).succeeded();
        let receiver = home.receiver("vm2", "tcp:127.0.0.1:0", &[]);
        cut(&home, &receiver, &[]);
        // Checkpoints take the pages that were written since, and change nothing about what the destination holds.
        for _ in 0..2 {
            let taken = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
            assert!(!taken["parent"].is_null(), "{taken:#}");
        }
        // Cut off once more, and gone on with again, with other ways to send pages.
        cut(&home, &receiver, &["--resume"]);
        home.run(&["predict", "vm1", "--time=50ms"]).succeeded();
        let options = ["--resume", "--verify=full", "--audit", "--streams=2"];
        let report = home.migrate("vm1", &receiver.address, &options).succeeded().json();
        assert_eq!(report["resumed"], true, "{report:#}");
        // A mebibyte is written over and over, of sixteen; the rest is there.
        assert!(first_round(&report) < all / 4, "{report:#}");
        source.end().succeeded();
        home.lives_on("vm2");
        let _restored = {
            home.run(&["checkpoint", "vm2"]).succeeded();
            home.machine("vm3", &["restore", "vm2"])
        };
        home.lives_on("vm3");
    }
}

#[test]
fn what_cannot_be_gone_on_with_is_said() {
    let home = Home::new();
    let _source = home.small_machine("engine");
    let receiver = home.receiver("vm2", "tcp:127.0.0.1:0", &[]);
    let resume = |address: &str| home.migrate("vm1", address, &["--resume"]);
    resume(&receiver.address).fails_with_guest(10, "runs on", &["none was cut off"]);
    cut(&home, &receiver, &[]);
    // Nobody there: what can be gone on with is not forgotten by that.
    resume("unix:/nowhere/at/all").fails_with_guest(15, "runs on", &["--resume"]);
    // A base begins tracking anew.
    home.run(&["checkpoint", "vm1"]).succeeded();
    resume(&receiver.address).fails_with_guest(10, "runs on", &["tracked anew"]);
    // From the start: what is kept makes room, and has the name no more.
    let report = home.migrate("vm1", &receiver.address, &[]).succeeded().json();
    assert_eq!(report["resumed"], false, "{report:#}");
    assert!(receiver.process.stderr().contains("thrown away"), "{}", receiver.process.stderr());
    home.lives_on("vm2");
}

#[test]
fn a_destination_that_kept_nothing_gets_everything() {
    let home = Home::new();
    let _source = home.small_machine("engine");
    let mut receiver = home.receiver("vm2", "tcp:127.0.0.1:0", &[]);
    cut(&home, &receiver, &[]);
    receiver.process.kill();
    let receiver = home.receiver("vm2", "tcp:127.0.0.1:0", &["--keep-arrived=0s"]);
    let done = home.migrate("vm1", &receiver.address, &["--resume"]).succeeded();
    assert_eq!(done.json()["resumed"], false, "{done:#?}");
    assert!(done.stderr.contains("all of memory was sent"), "{done:#?}");
    home.lives_on("vm2");
}
