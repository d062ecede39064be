//! Whatever breaks, exactly one guest runs, and it has lost nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::Duration;

use common::proxy::{Break, Way};
use common::run::{Outcome, migrate};
use ringmark_migrate::report::Status;
use ringmark_migrate::send::{DepartError, SendOptions, SourceGuest};

const CONTROL: u8 = 1;
const STREAM: u8 = 2;

fn options() -> SendOptions {
    SendOptions { ask_for: Duration::from_millis(600), ..SendOptions::default() }
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

/// How many bytes a whole migration sends, each way, on its control connection.
fn control_bytes() -> (u64, u64) {
    let outcome = migrate(None, &options(), false);
    outcome.sent.unwrap();
    (outcome.proxy.bytes(CONTROL, Way::ToDestination), outcome.proxy.bytes(CONTROL, Way::ToSource))
}

fn cut(at: Break) -> Outcome {
    let outcome = migrate(Some(at), &options(), false);
    // Where both stood still, a person has decided by now; so exactly one runs in every case.
    let source_undecided =
        outcome.sent.as_ref().is_err_and(|departed| departed.guest == SourceGuest::Undecided);
    if source_undecided && !at.heals {
        assert!(outcome.received.is_ok(), "{at:?}: the person let it run at the destination");
    }
    one_whole_guest(&outcome);
    outcome
}

#[test]
fn the_control_connection_is_cut_at_any_byte() {
    let (there, back) = control_bytes();
    let mut undecided = [0; 2];
    for heals in [true, false] {
        // The messages are short but for the state: every byte of the first and last messages, and some between.
        let near = |total: u64| {
            let last = total.saturating_sub(90);
            (0..6).map(move |i| i * (last / 6)).chain((last..=total + 1).step_by(7))
        };
        for after in near(there) {
            let outcome = cut(Break { role: CONTROL, way: Way::ToDestination, after, heals });
            undecided[0] += u32::from(outcome.destination_undecided);
        }
        for after in near(back).chain((back.saturating_sub(40)..back + 1).step_by(5)) {
            let outcome = cut(Break { role: CONTROL, way: Way::ToSource, after, heals });
            let silent = outcome.sent.is_err_and(|departed| departed.guest == SourceGuest::Undecided);
            undecided[1] += u32::from(silent);
            if heals {
                assert!(!silent, "after {after} bytes: the destination could be asked");
            }
        }
    }
    println!("undecided destinations: {}, undecided sources: {}", undecided[0], undecided[1]);
    assert!(undecided.iter().all(|count| *count > 0), "the undecidable instants were met");
}

#[test]
fn a_stream_is_cut_anywhere() {
    for (way, after) in [0, 1, 40, 5_000, 100_000, 1_000_000, 1_500_000]
        .into_iter()
        .map(|after| (Way::ToDestination, after))
        .chain([0, 10, 24].map(|after| (Way::ToSource, after)))
    {
        let outcome = cut(Break { role: STREAM, way, after, heals: true });
        if outcome.proxy.has_broken() {
            let departed = outcome.sent.unwrap_err();
            assert_eq!(departed.guest, SourceGuest::RunsOn, "{way:?} after {after}: {departed}");
        }
    }
}
