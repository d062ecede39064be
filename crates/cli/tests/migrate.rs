//! Machines that move between two processes: there, back, called off, refused.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use common::migration::{Authority, Papers};
use common::process::Running;
use common::{Home, hypervisors, wait_for};
use ringmark_control::GuestState;
use rustix::process::{Signal, kill_process};

/// Migrations of one guest, back and forth; a longer run asks for more.
const MIGRATIONS: u32 = 50;

/// Pages are sent, also where memory might be handed over as it is.
const COPY: &str = "--memory=copy";

/// Slow enough that whatever a test does happens while pages travel.
const SLOW: [&str; 2] = [COPY, "--bandwidth=256K"];

fn machine(home: &Home, hypervisor: &str) -> Running {
    home.small_machine(hypervisor)
}

#[test]
fn a_guest_moves_and_everything_goes_on_there() {
    for hypervisor in hypervisors("a_guest_moves_and_everything_goes_on_there") {
        let home = Home::new();
        let source = machine(&home, hypervisor);
        home.run(&["checkpoint", "vm1"]).succeeded();
        let receiver = home.unix_receiver("vm2", &[]);
        let options = [COPY, "--verify=full", "--audit", "--streams=2"];
        let done = home.migrate("vm1", &receiver.address, &options).succeeded();
        let report = done.json();
        assert_eq!((&report["status"], &report["verified"]), (&"completed".into(), &"full".into()));
        for time in ["total-time", "downtime", "setup-time"] {
            assert!(report[time].as_f64().unwrap() > 0.0, "{time}: {report:#}");
        }
        let parts = report["downtime-breakdown"].as_object().unwrap();
        let sum: f64 = parts.values().map(|part| part.as_f64().unwrap()).sum();
        assert!((sum - report["downtime"].as_f64().unwrap()).abs() < 0.01, "{report:#}");
        assert!(report["ram"]["transferred"].as_u64().unwrap() > 0, "{report:#}");
        assert!(report["rounds"].as_array().unwrap().len() >= 2, "{report:#}");
        assert!(done.stderr.lines().any(|line| line.starts_with("round 1: ")), "{done:#?}");

        // The source's process ends by itself, and says why.
        let ended = source.end().succeeded();
        assert!(ended.stderr.contains("the guest has left"), "{ended:#?}");
        home.lives_on("vm2");

        // What arrived is a machine like any other.
        home.run(&["checkpoint", "vm2"]).succeeded();
        home.run(&["checkpoint", "vm2"]).succeeded();
        drop(receiver);
        let _restored = home.machine("vm3", &["restore", "vm2"]);
        home.lives_on("vm3");
    }
}

/// `RINGMARK_MIGRATIONS=1000` asks for a thousand.
#[test]
fn a_guest_moves_back_and_forth() {
    let count = std::env::var("RINGMARK_MIGRATIONS").map_or(MIGRATIONS, |count| count.parse().unwrap());
    for hypervisor in hypervisors("a_guest_moves_back_and_forth") {
        let home = Home::new();
        let mut running = machine(&home, hypervisor);
        let names = ["vm1", "vm2"];
        for number in 0..count as usize {
            let (from, to) = (names[number % 2], names[(number + 1) % 2]);
            let receiver = home.unix_receiver(to, &[]);
            home.migrate(from, &receiver.address, &[COPY]).succeeded();
            std::mem::replace(&mut running, receiver.process).end().succeeded();
            home.lives_on(to);
        }
    }
}

#[test]
fn a_paused_guest_arrives_paused() {
    let home = Home::new();
    let _source = machine(&home, "engine");
    home.client("vm1").pause().unwrap();
    let _receiver = {
        let receiver = home.unix_receiver("vm2", &[]);
        home.migrate("vm1", &receiver.address, &[]).succeeded();
        receiver
    };
    home.wait_for_guest("vm2", GuestState::Paused);
    home.client("vm2").resume().unwrap();
    home.lives_on("vm2");
}

#[test]
fn a_migration_that_is_interrupted_leaves_the_guest_where_it_is() {
    for hypervisor in hypervisors("a_migration_that_is_interrupted_leaves_the_guest_where_it_is") {
        let home = Home::new();
        let _source = machine(&home, hypervisor);
        let receiver = home.unix_receiver("vm2", &[]);
        let start = || {
            let args = [&["migrate", "vm1", &receiver.address], &SLOW[..]].concat();
            let sender = Running::start(home.command(&args));
            wait_for("the migration to begin", || {
                home.client("vm1").status().unwrap().migration_running.then_some(())
            });
            home.wait_for_guest("vm2", GuestState::Arriving);
            sender
        };
        // By the operator: the program says what became of it.
        let sender = start();
        let busy = home.run(&["checkpoint", "vm1"]);
        busy.fails(13, &["under way"]);
        kill_process(sender.process(), Signal::INT).unwrap();
        sender.end().fails_with_guest(18, "runs on", &["cancelled"]);
        home.lives_on("vm1");
        // And where the program that asked for it is no more.
        let mut sender = start();
        sender.kill();
        wait_for("the migration to be called off", || {
            (!home.client("vm1").status().unwrap().migration_running).then_some(())
        });
        home.lives_on("vm1");
        home.run(&["checkpoint", "vm1"]).succeeded();
        // The receiver still waits, and takes the machine in the end.
        home.migrate("vm1", &receiver.address, &[COPY]).succeeded();
        home.lives_on("vm2");
    }
}

#[test]
fn a_destination_that_cannot_run_it_says_so() {
    let home = Home::new();
    let _source = machine(&home, "engine");
    let refused = |name: &str, option: &str, words: &[&str]| {
        let receiver = home.unix_receiver(name, &[option]);
        home.migrate("vm1", &receiver.address, &[]).fails_with_guest(14, "runs on", words);
    };
    refused("vm2", "--max-memory=1M", &["16777216 bytes of memory", "--max-memory"]);
    refused("vm2", "--hypervisor=kvm", &["engine"]);
    // Its own name, which it still has.
    let address = format!("unix:{}", home.dir().join("again").display());
    let receiver = Running::start(home.command(&["receive", &address]));
    wait_for("the receiver", || receiver.stderr().contains("waiting").then_some(()));
    home.migrate("vm1", &address, &[]).fails_with_guest(14, "runs on", &["--name"]);
    // Nobody there at all.
    home.migrate("vm1", "unix:/nowhere/at/all", &[]).fails_with_guest(15, "runs on", &["cannot be reached"]);
    home.lives_on("vm1");
}

#[test]
fn a_goal_that_cannot_be_met_is_missed_or_the_guest_stays() {
    let home = Home::new();
    let _source = machine(&home, "engine");
    let receiver = home.unix_receiver("vm2", &[]);
    let goal = ["--max-downtime=1ms", "--max-total=1s", "--bandwidth=1M"];
    let stays = [&goal[..], &["--prefer=guest"]].concat();
    home.migrate("vm1", &receiver.address, &stays).fails_with_guest(16, "runs on", &["downtime"]);
    home.lives_on("vm1");
    let report = home.migrate("vm1", &receiver.address, &goal).succeeded().json();
    assert!(report["downtime"].as_f64().unwrap() > 1.0, "{report:#}");
    home.lives_on("vm2");
}

#[test]
fn what_was_predicted_is_shown_beside_what_became_of_it() {
    for hypervisor in hypervisors("what_was_predicted_is_shown_beside_what_became_of_it") {
        let home = Home::new();
        let _source = machine(&home, hypervisor);
        let receiver = home.unix_receiver("vm2", &[]);
        let copied = ["migrate", "vm1", &receiver.address, "--memory=copy", "--bandwidth=4M"];
        let told = home.run(&copied).succeeded().stdout;
        let cells = |what: &str| {
            let line = told.lines().find(|line| line.trim_start().starts_with(what));
            let line = line.unwrap_or_else(|| panic!("nothing is said of {what}: {told}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        // Of each: what was expected, two pairs of bounds, and the outcome, which the first line has, too.
        let head = told.lines().next().unwrap();
        let number = |text: &str| text.parse::<f64>().unwrap();
        let downtime = cells("downtime, ms");
        assert_eq!(downtime.len(), 2 + 1 + 3 + 3 + 1, "{told}");
        let said = head.split_once("downtime ").unwrap().1.split_once(' ').unwrap().0;
        assert!((number(downtime.last().unwrap()) - number(said)).abs() < 0.6, "{told}");
        assert_eq!(
            cells("rounds").last().unwrap(),
            &told.lines().filter(|l| l.contains("B/s")).count().to_string()
        );
        assert_eq!(cells("total time, ms").len(), 3 + 1 + 3 + 3 + 1, "{told}");
        home.lives_on("vm2");
    }
}

#[test]
fn only_those_with_the_right_certificates_meet() {
    let home = Home::new();
    let _source = machine(&home, "engine");
    let (ours, strangers) = (Authority::new(), Authority::new());
    let here = Papers::issue(home.dir(), "here", &ours);
    let there = Papers::issue(home.dir(), "there", &ours);
    let stranger = Papers::issue(home.dir(), "stranger", &strangers);
    let receiver = home.receiver("vm2", "tls:127.0.0.1:0", &there.options());
    home.migrate("vm1", &receiver.address, &[]).fails_with_guest(1, "runs on", &["certificates"]);
    home.migrate("vm1", &receiver.address, &stranger.options()).fails_with_guest(15, "runs on", &[]);
    // Another protocol than TLS gets nowhere either.
    let plain = receiver.address.replace("tls:", "tcp:");
    home.migrate("vm1", &plain, &[]).fails_with_guest(15, "runs on", &[]);
    home.lives_on("vm1");
    home.migrate("vm1", &receiver.address, &here.options()).succeeded();
    home.lives_on("vm2");
}

#[test]
fn memory_does_not_cross_a_network_in_the_clear_unless_that_is_wanted() {
    let home = Home::new();
    let _source = machine(&home, "engine");
    home.migrate("vm1", "tcp:192.0.2.1:9", &[]).fails_with_guest(
        1,
        "runs on",
        &["in the clear", "--insecure"],
    );
    let listening = home.run(&["receive", "tcp:0.0.0.0:0"]);
    listening.fails_with_guest(2, "none", &["in the clear", "--insecure"]);
    home.lives_on("vm1");
}

#[test]
fn strangers_at_either_end_do_no_harm() {
    let home = Home::new();
    let _source = machine(&home, "engine");
    // A destination that is none.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", stranger.local_addr().unwrap());
    thread::spawn(move || {
        for connection in stranger.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.write_all(&[0x5a; 4096]);
            let _ = connection.read(&mut [0; 64]);
        }
    });
    home.migrate("vm1", &address, &[]).fails_with_guest(15, "runs on", &[]);
    home.lives_on("vm1");
    // A source that is none.
    let receiver = home.receiver("vm2", "tcp:127.0.0.1:0", &[]);
    let at = receiver.address.strip_prefix("tcp:").unwrap();
    for noise in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 10_000]] {
        let mut connection = TcpStream::connect(at).unwrap();
        // It may be turned away before it has said everything.
        let _ = connection.write_all(noise);
    }
    home.migrate("vm1", &receiver.address, &[]).succeeded();
    home.lives_on("vm2");
}
