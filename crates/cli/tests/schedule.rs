//! A rolling history: checkpoints by the clock, a store that does not grow, and the truth about an interval that is too
//! short.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Home, hypervisors, wait_for};
use ringmark_control::{Client, Schedule};

/// What the machine says of its schedule, once `seen` finds in it what it looks for.
fn schedule(home: &Home, vm: &str, what: &str, seen: impl Fn(&Schedule) -> bool) -> Schedule {
    let client = Client::connect(home.socket(vm)).unwrap();
    wait_for(what, || client.status().unwrap().schedule.filter(&seen))
}

#[test]
fn a_history_rolls() {
    for hypervisor in hypervisors("a_history_rolls") {
        let home = Home::new();
        let hypervisor = format!("--hypervisor={hypervisor}");
        let machine =
            ["run", "--guest=zipf", "--memory=32M", &hypervisor, "--checkpoint-every=50ms", "--keep=last=3"];
        let mut vm1 = home.machine("vm1", &machine);
        let report = schedule(&home, "vm1", "eight scheduled checkpoints", |schedule| schedule.taken >= 8);
        assert_eq!((report.failed, report.keep.as_deref()), (0, Some("last=3")), "{report:?}");
        assert!(report.pruned >= 4 && report.shortest_interval_ms.is_some_and(|ms| ms > 0.0), "{report:?}");
        vm1.kill();
        let listed = home.run(&["images", "vm1", "--json"]).succeeded().json();
        let images = listed["images"].as_array().unwrap().len();
        // The last one may have been taken and its elders not yet removed.
        assert!((3..=4).contains(&images), "{listed}");
        // What was removed is missed by nobody.
        home.run(&["verify", "--deep"]).succeeded();
        let _again = home.machine("vm2", &["restore", "vm1", &hypervisor]);
        home.is_whole("vm2");
    }
}

#[test]
fn an_interval_that_is_too_short_is_said_to_be() {
    let home = Home::new();
    let machine = ["run", "--guest=uniform", "--memory=64M", "--hypervisor=engine", "--checkpoint-every=1ms"];
    let vm1 = home.machine("vm1", &machine);
    let report = schedule(&home, "vm1", "a schedule that is behind", |schedule| schedule.behind);
    assert!(report.missed > 0, "{report:?}");
    assert!(report.shortest_interval_ms.is_some_and(|ms| ms > 1.0), "{report:?}");
    wait_for("the word of it", || {
        vm1.stderr().contains("the shortest interval that this guest and host").then_some(())
    });
}

#[test]
fn schedules_that_make_no_sense() {
    let home = Home::new();
    for wrong in [["--checkpoint-every=0s", "--keep=last=3"], ["--checkpoint-every=soon", "--keep=last=3"]] {
        assert_eq!(home.run(&["run", "--guest=zipf", wrong[0], wrong[1]]).code, Some(2));
    }
    assert_eq!(
        home.run(&["run", "--guest=zipf", "--keep=last=3"]).code,
        Some(2),
        "nothing is taken by itself"
    );
    assert_eq!(home.run(&["run", "--guest=zipf", "--checkpoint-every=1s", "--keep=last=0"]).code, Some(2));
}
