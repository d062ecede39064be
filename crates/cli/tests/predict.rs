//! What a migration would come to, asked of a machine that goes nowhere.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::process::Running;
use common::{Home, hypervisors, wait_for};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// Quick, for a guest that writes all the time.
const BRIEF: &str = "--time=300ms";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Bounds enclose one another, and the expected value.
fn sound(prediction: &Value, what: &str) {
    let bounds = &prediction[what];
    let [half, most] = ["bounds-50", "bounds-90"].map(|which| [0, 1].map(|end| number(&bounds[which][end])));
    let order = [most[0], half[0], number(&bounds["expected"]), half[1], most[1]];
    assert!(order.is_sorted(), "{what}: {bounds}");
}

#[test]
fn a_migration_is_predicted_and_nothing_is_lost_by_it() {
    for hypervisor in hypervisors("a_migration_is_predicted_and_nothing_is_lost_by_it") {
        let home = Home::new();
        let machine = format!("--hypervisor={hypervisor}");
        let guest = ["run", "--guest=uniform", "--memory=16M", "--hot=1M", "--audit", &machine];
        let _machine = home.machine("vm1", &guest);
        // Once on a machine whose writes nobody tracks yet, and once between two checkpoints.
        home.run(&["predict", "vm1", BRIEF, "--json"]).succeeded();
        let base = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
        assert!(base["parent"].is_null(), "{base:#}");
        let predicted = home.run(&["predict", "vm1", BRIEF, "--json"]).succeeded().json();
        for what in ["hot-pages", "floor-pages", "floor-downtime", "rounds", "total-time", "downtime"] {
            sound(&predicted["prediction"], what);
        }
        // The guest writes a mebibyte over and over, and a few pages of its own.
        let hot = number(&predicted["prediction"]["hot-pages"]["expected"]);
        let hot_bytes = hot * home.client("vm1").status().unwrap().page_size as f64;
        assert!((1.0..f64::from(16 << 20)).contains(&hot_bytes), "{predicted:#}");
        assert!(number(&predicted["windows"]) > 0.0 && number(&predicted["measured_ms"]) >= 300.0);
        assert_eq!(predicted["bandwidth_assumed"], true, "{predicted:#}");
        // Every page that the look has taken from the log is in the increment: the audit has all of memory to compare with.
        let increment = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
        assert_eq!(increment["parent"], base["image"]);
        assert_eq!((&increment["escapes"], &increment["audit_baseline"]), (&0.into(), &false.into()));
        let _restored = home.machine("vm2", &["restore", "vm1"]);
        home.lives_on("vm2");
        home.lives_on("vm1");
    }
}

#[test]
fn what_cannot_be_had_is_said_with_what_it_would_take() {
    for hypervisor in hypervisors("what_cannot_be_had_is_said_with_what_it_would_take") {
        let home = Home::new();
        let _machine = home.small_machine(hypervisor);
        let slow = ["predict", "vm1", BRIEF, "--bandwidth=64K", "--max-downtime=20ms", "--prefer=guest"];
        let predicted = home.run(&[&slow[..], &["--json"]].concat()).succeeded().json();
        assert_eq!((&predicted["goal"], &predicted["throttle"]), (&"missed".into(), &false.into()));
        assert!(number(&predicted["prediction"]["floor-downtime"]["expected"]) > 20.0, "{predicted:#}");
        assert!(number(&predicted["prediction"]["total-time"]["expected"]) > 1000.0, "{predicted:#}");
        let told = home.run(&slow).succeeded().stdout;
        for word in
            ["floor", "rounds", "total time", "downtime", "a downtime of 20 ms cannot be met", "would take"]
        {
            assert!(told.contains(word), "`{word}` is not said: {told}");
        }
        // A goal that anything meets.
        let easy = ["predict", "vm1", BRIEF, "--bandwidth=10G", "--max-downtime=1h", "--json"];
        let predicted = home.run(&easy).succeeded().json();
        assert_eq!(predicted["goal"], "met", "{predicted:#}");
        assert!(predicted["prediction"]["remedies"].is_null(), "{predicted:#}");
    }
}

#[test]
fn one_thing_is_done_at_a_time() {
    let home = Home::new();
    let _machine = home.small_machine("engine");
    let receiver = home.unix_receiver("vm2", &[]);
    let sender = Running::start(home.command(&["migrate", "vm1", &receiver.address, "--bandwidth=256K"]));
    wait_for("the migration to begin", || {
        home.client("vm1").status().unwrap().migration_running.then_some(())
    });
    home.run(&["predict", "vm1"]).fails_with_guest(13, "runs on", &["under way"]);
    kill_process(sender.process(), Signal::INT).unwrap();
    sender.end().fails_with_guest(18, "runs on", &["cancelled"]);

    // And the other way round, until who asked goes away.
    let mut watching = Running::start(home.command(&["predict", "vm1", "--time=10m"]));
    let watched = || home.client("vm1").status().unwrap().prediction_running;
    wait_for("the guest to be watched", || watched().then_some(()));
    home.run(&["checkpoint", "vm1"]).fails_with_guest(13, "runs on", &["under way"]);
    home.run(&["migrate", "vm1", &receiver.address]).fails_with_guest(13, "runs on", &["under way"]);
    watching.kill();
    wait_for("the watch to end", || (!watched()).then_some(()));
    // The answer that nobody takes is given up a moment later.
    wait_for("a checkpoint", || (home.run(&["checkpoint", "vm1"]).code == Some(0)).then_some(()));
    home.lives_on("vm1");
}

#[test]
fn a_guest_that_stands_still_tells_nothing() {
    let home = Home::new();
    let _machine = home.small_machine("engine");
    home.client("vm1").pause().unwrap();
    home.run(&["predict", "vm1", BRIEF]).fails_with_guest(10, "is paused", &["cannot be measured"]);
    home.client("vm1").resume().unwrap();
    home.run(&["predict", "vm1", BRIEF, "--bandwidth=0"]).fails_with_guest(1, "runs on", &["no bandwidth"]);
    home.run(&["predict", "vm1", "--time=1h"]).fails_with_guest(1, "runs on", &["at most"]);
    home.run(&["predict", "vm1", BRIEF]).succeeded();
}
