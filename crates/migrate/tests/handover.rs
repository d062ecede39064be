//! Whatever breaks, exactly one guest runs, and it has lost nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::at_once;
use common::proxy::{Break, Way};
use common::run::{Outcome, migrate};
use ringmark_migrate::report::Status;
use ringmark_migrate::send::{DepartError, SendOptions, SourceGuest};

const CONTROL: u8 = 1;
const STREAM: u8 = 2;

/// The destination has time for an answer, with other migrations beside it.
fn options() -> SendOptions {
    SendOptions { ask_for: Duration::from_secs(2), ..SendOptions::default() }
}

/// Exactly one guest runs, and its memory is as it wrote it.
fn one_whole_guest(outcome: &Outcome) {
    assert_eq!(outcome.running.count(), 1, "guests that run");
    std::thread::sleep(Duration::from_millis(2));
    match (&outcome.sent, &outcome.received) {
        (_, Ok(arrived)) => arrived.machine.check(),
        (Err(_), Err(_)) => outcome.source.check(),
        (Ok(_), Err(error)) => panic!("it left and did not arrive: {error}"),
    }
}

#[test]
fn a_guest_arrives() {
    for streams in [1, 3] {
        let outcome = migrate(None, &SendOptions { streams, verify_full: true, ..options() }, false);
        let report = outcome.sent.as_ref().unwrap();
        assert_eq!(report.status, Status::Completed);
        assert!(report.rounds.len() >= 3 && report.downtime > 0.0 && report.total_time >= report.downtime);
        let parts = report.downtime_breakdown;
        let sum =
            parts.kick + parts.save + parts.harvest + parts.pages + parts.source_digest + parts.transfer;
        assert!((sum + parts.digest + parts.load + parts.resume - report.downtime).abs() < 1e-6);
        one_whole_guest(&outcome);
        let before = outcome.received.as_ref().unwrap().machine.steps();
        std::thread::sleep(Duration::from_millis(5));
        assert!(outcome.received.as_ref().unwrap().machine.steps() > before, "it goes on");
    }
}

#[test]
fn a_refusal_costs_nothing() {
    let outcome = migrate(None, &options(), true);
    let departed = outcome.sent.as_ref().unwrap_err();
    assert!(matches!(*departed.error, DepartError::Refused(_)), "{departed}");
    assert_eq!(departed.guest, SourceGuest::RunsOn);
    one_whole_guest(&outcome);
}

/// Where the messages of a whole migration end, each way, on connections of `role`.
fn ends(role: u8) -> [(Way, Vec<u64>); 2] {
    let outcome = migrate(None, &options(), false);
    outcome.sent.unwrap();
    [Way::ToDestination, Way::ToSource].map(|way| (way, outcome.proxy.ends(role, way)))
}

fn cut(at: Break, streams: u16) -> Outcome {
    let outcome = migrate(Some(at), &SendOptions { streams, ..options() }, false);
    // Where both stood still, a person has decided by now; so exactly one runs in every case.
    let source_undecided =
        outcome.sent.as_ref().is_err_and(|departed| departed.guest == SourceGuest::Undecided);
    if source_undecided && !at.heals {
        assert!(outcome.received.is_ok(), "{at:?}: the person let it run at the destination");
    }
    one_whole_guest(&outcome);
    outcome
}

/// What became of the guest, in words.
fn fate(outcome: &Outcome) -> &'static str {
    match (&outcome.sent, outcome.destination_undecided) {
        (Ok(_), false) => "runs at the destination",
        (Ok(_), true) => "runs at the destination, which was asked",
        (Err(departed), _) if departed.guest == SourceGuest::Undecided => "undecided until a person looked",
        (Err(_), false) => "runs on at the source",
        (Err(_), true) => "runs on at the source, and the destination waits to be told",
    }
}

/// How often a cut in this message, of a link that heals or does not, led to which fate.
type Table = BTreeMap<(Way, usize, bool, &'static str), u32>;

/// The messages of the control connection; the source's greeting is never cut.
fn name(way: Way, message: usize) -> String {
    let names: &[&str] = match way {
        Way::ToDestination => &["offer", "prepare", "commit"],
        Way::ToSource => &["greeting", "accept", "prepared", "running"],
    };
    names.get(message - 1).map_or_else(|| message.to_string(), |name| (*name).to_owned())
}

fn print(what: &str, table: &Table, name: impl Fn(Way, usize) -> String) {
    println!("| to the | {what} | link | the guest | cuts |");
    println!("|---|---|---|---|---|");
    for ((way, message, heals, fate), cuts) in table {
        let message = name(*way, *message);
        let way = if *way == Way::ToDestination { "destination" } else { "source" };
        let link = if *heals { "heals" } else { "stays cut" };
        println!("| {way} | {message} | {link} | {fate} | {cuts} |");
    }
}

#[test]
fn the_control_connection_is_cut_in_every_message() {
    let mut cases = Vec::new();
    for (way, ends) in ends(CONTROL) {
        let mut start = 0;
        assert!(ends.len() >= 3, "an offer, an answer and so on: {ends:?}");
        for (message, end) in (1..).zip(ends) {
            for heals in [true, false] {
                // Before its first byte, in its header, in its middle, before its last byte, and behind it.
                for after in [start, start + 5, (start + end) / 2, end - 1, end] {
                    cases.push((message, Break { role: CONTROL, way, after, heals }));
                }
            }
            start = end;
        }
    }
    let met = at_once(&cases, |&(message, at)| {
        let outcome = cut(at, 1);
        let fate = fate(&outcome);
        let silent = outcome.sent.is_err_and(|departed| departed.guest == SourceGuest::Undecided);
        assert!(!(silent && at.heals), "{at:?}: the destination could be asked");
        ((at.way, message, at.heals, fate), [outcome.destination_undecided, silent])
    });
    let mut table = Table::new();
    let mut undecided = [0; 2];
    for (row, silent) in met {
        *table.entry(row).or_default() += 1;
        undecided = [0, 1].map(|side| undecided[side] + u32::from(silent[side]));
    }
    print("message", &table, name);
    assert!(undecided.iter().all(|count| *count > 0), "the undecidable instants were met: {undecided:?}");
}

#[test]
fn a_stream_is_cut_anywhere() {
    let mut table = Table::new();
    let mut random = fastrand::Rng::with_seed(7);
    for streams in [1, 3] {
        for (way, ends) in ends(STREAM) {
            let all = ends.last().copied().unwrap();
            let first = [0, 1, 24].into_iter().filter(|after| *after < all);
            let others: Vec<_> = (0..12).map(|_| random.u64(..all)).collect();
            for after in first.chain(others) {
                let outcome = cut(Break { role: STREAM, way, after, heals: true }, streams);
                if outcome.proxy.has_broken() {
                    let departed = outcome.sent.as_ref().unwrap_err();
                    assert_eq!(departed.guest, SourceGuest::RunsOn, "{way:?} after {after}: {departed}");
                }
                *table.entry((way, usize::from(streams), true, fate(&outcome))).or_default() += 1;
            }
        }
    }
    print("one of so many streams", &table, |_, streams| streams.to_string());
}
