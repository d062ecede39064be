//! Migrations in which something dies: exactly one guest runs afterwards, or both stand still until a person decides.

mod common;

use common::migration::Cut;
use common::process::Running;
use common::{Home, at_once, hypervisors, wait_for};
use ringmark_control::GuestState;

/// Slow enough that whatever a test does happens while pages travel.
const SLOW: [&str; 2] = ["--memory=copy", "--bandwidth=256K"];

#[test]
fn a_destination_that_is_killed_leaves_the_guest_at_its_source() {
    for hypervisor in hypervisors("a_destination_that_is_killed_leaves_the_guest_at_its_source") {
        let home = Home::new();
        let _source = home.small_machine(hypervisor);
        let mut receiver = home.unix_receiver("vm2", &[]);
        let sender =
            Running::start(home.command(&[&["migrate", "vm1", &receiver.address], &SLOW[..]].concat()));
        home.wait_for_guest("vm2", GuestState::Arriving);
        receiver.process.kill();
        // Which of its connections stood by then, and so what is said of them, is a matter of time.
        sender.end().fails_with_guest(15, "runs on", &[]);
        home.lives_on("vm1");
        let again = home.unix_receiver("vm2", &[]);
        home.migrate("vm1", &again.address, &[]).succeeded();
        home.lives_on("vm2");
    }
}

#[test]
fn a_source_that_is_killed_leaves_nothing_at_its_destination() {
    for hypervisor in hypervisors("a_source_that_is_killed_leaves_nothing_at_its_destination") {
        let home = Home::new();
        let mut source = home.small_machine(hypervisor);
        home.run(&["checkpoint", "vm1"]).succeeded();
        let receiver = home.unix_receiver("vm2", &[]);
        let sender =
            Running::start(home.command(&[&["migrate", "vm1", &receiver.address], &SLOW[..]].concat()));
        home.wait_for_guest("vm2", GuestState::Arriving);
        source.kill();
        assert_eq!(sender.end().code, Some(1));
        wait_for("the receiver to wait for another", || {
            receiver.process.stderr().contains("waiting for the next").then_some(())
        });
        // What has arrived is kept, and its name with it, until a machine is sent from the start.
        assert_eq!(home.guest("vm2"), Some(GuestState::Arriving));
        // The guest goes on from its image, and comes by the same way.
        let _restored = home.machine("vm1", &["restore", "vm1"]);
        home.migrate("vm1", &receiver.address, &[]).succeeded();
        home.lives_on("vm2");
    }
}

/// The link dies at each message, and stays dead. Before the commit the source runs on by itself; afterwards a person has to
/// say, or the destination runs already.
#[test]
fn a_link_that_dies_leaves_one_guest() {
    for hypervisor in hypervisors("a_link_that_dies_leaves_one_guest") {
        at_once(["offer", "accept", "join", "prepare", "prepared", "commit", "running"], |message| {
            let home = Home::new();
            let source = home.small_machine(hypervisor);
            let receiver = home.receiver("vm2", "tcp:127.0.0.1:0", &[]);
            let cut = Cut::at(message, &receiver);
            let sent = home.migrate("vm1", &cut.address, &[]);
            assert!(cut.is_dead(), "{message}: {sent:#?}");
            match message {
                "commit" => {
                    home.nobody_runs(sent);
                    home.run(&["migrate", "vm2", "--decide=discard"]).succeeded();
                    home.run(&["migrate", "vm1", "--decide=run"]).succeeded();
                    home.lives_on("vm1");
                    assert_ne!(home.guest("vm2"), Some(GuestState::Running));
                }
                "running" => {
                    sent.fails_with_guest(17, "stands still", &["--decide"]);
                    home.lives_on("vm2");
                    assert_eq!(home.guest("vm1"), Some(GuestState::Undecided));
                    home.run(&["migrate", "vm1", "--decide=discard"]).succeeded();
                    source.end().succeeded();
                }
                "prepared" => {
                    sent.fails_with_guest(15, "runs on", &["lost"]);
                    home.lives_on("vm1");
                    // It knows nothing of that, and keeps everything until it is told.
                    home.wait_for_guest("vm2", GuestState::Undecided);
                    home.run(&["migrate", "vm2", "--decide=discard"]).succeeded();
                }
                _ => {
                    sent.fails_with_guest(15, "runs on", &[]);
                    home.lives_on("vm1");
                    assert_ne!(home.guest("vm2"), Some(GuestState::Running), "{message}");
                }
            }
        });
    }
}

/// Killed while nobody else can know what it did.
#[test]
fn a_side_that_is_killed_in_the_undecided_instant_leaves_the_other_to_a_person() {
    for hypervisor in
        hypervisors("a_side_that_is_killed_in_the_undecided_instant_leaves_the_other_to_a_person")
    {
        at_once(["source", "destination"], |killed| {
            let home = Home::new();
            let mut source = home.small_machine(hypervisor);
            let mut receiver = home.receiver("vm2", "tcp:127.0.0.1:0", &[]);
            let cut = Cut::at("commit", &receiver);
            home.migrate("vm1", &cut.address, &[]).fails_with_guest(17, "stands still", &["--decide"]);
            home.wait_for_guest("vm2", GuestState::Undecided);
            let left = if killed == "source" {
                source.kill();
                "vm2"
            } else {
                receiver.process.kill();
                "vm1"
            };
            home.run(&["migrate", left, "--decide=run"]).succeeded();
            home.lives_on(left);
        });
    }
}
