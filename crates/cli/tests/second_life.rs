//! Guests of every kind of tracking, of little memory and of more than a checkpoint holds in memory: killed, restored
//! from each of their images, and found whole by themselves and from outside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Home, hypervisors};

/// Takes three images under a guest that writes `hot` as fast as it can, kills it, and restores each of them.
///
/// Every cut is audited, so that a restore compares all of memory with what it was at the cut.
fn second_life(hypervisor: &str, tracking: &str, hot: &str, pattern: &str) {
    let home = Home::new();
    let options = [format!("--hypervisor={hypervisor}"), format!("--tracking={tracking}")];
    let (hot, guest) = (format!("--hot={hot}"), format!("--guest={pattern}"));
    let machine = ["run", "--memory=48M", "--vcpus=2", "--audit", &guest, &hot, &options[0], &options[1]];
    let mut vm1 = home.machine("vm1", &machine);
    let images = [(); 3].map(|()| {
        home.writes_on("vm1");
        let taken = home.run(&["checkpoint", "vm1", "--json"]).succeeded().json();
        assert_eq!(taken["escapes"], 0, "{taken}");
        taken["image"].as_str().unwrap().to_owned()
    });
    vm1.kill();
    for image in images {
        let _machine = home.machine("vm2", &["restore", &image, "--audit", &options[0], &options[1]]);
        home.is_whole("vm2");
        // What it wrote since is an increment to the image it came from.
        let taken = home.run(&["checkpoint", "vm2", "--json"]).succeeded().json();
        assert_eq!((&taken["parent"], &taken["escapes"]), (&image.as_str().into(), &0.into()));
    }
    home.run(&["verify"]).succeeded();
}

fn everywhere(test: &str, hot: &str, pattern: &str) {
    for hypervisor in hypervisors(test) {
        for tracking in ["ring", "bitmap"] {
            second_life(hypervisor, tracking, hot, pattern);
        }
    }
}

#[test]
fn a_few_hot_pages() {
    everywhere("a_few_hot_pages", "2M", "zipf");
}

/// Half of what may be held in memory: pages are copied again and again.
#[test]
fn as_many_hot_pages_as_are_held() {
    everywhere("as_many_hot_pages_as_are_held", "18M", "uniform");
}

/// More than may be held in memory: some rounds go to the store at once.
#[test]
fn more_hot_pages_than_are_held() {
    everywhere("more_hot_pages_than_are_held", "36M", "uniform");
}

#[test]
fn pages_that_are_written_and_do_not_change() {
    everywhere("pages_that_are_written_and_do_not_change", "8M", "rewrite");
}
