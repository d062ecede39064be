//! What the guest writes while a round is sent is harvested beside it: what the round still reads is not sent again, and all else is.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use common::engine::{Load, Machine, Pattern, migrate};
use ringmark_migrate::report::Report;
use ringmark_migrate::send::{Prefer, SendOptions};
use ringmark_migrate::wire::Encoding;

/// 1,280 pages a second, so that the first round of the guests below takes some tenths of a second.
const BANDWIDTH: u64 = 5 << 20;

fn options() -> SendOptions {
    SendOptions {
        encodings: vec![Encoding::Zero, Encoding::Word, Encoding::Raw],
        bandwidth: Some(BANDWIDTH),
        max_downtime: Duration::from_secs(2),
        prefer: Prefer::Downtime,
        throttle: false,
        ..SendOptions::default()
    }
}

/// Moves a guest that has written for `warm`, and looks whether each of its pages is as it was written last.
fn moves(load: Load, warm: Duration, options: &SendOptions) -> Report {
    let machine = Machine::new(4096, 4096, &[load]);
    machine.start();
    thread::sleep(warm);
    let never = AtomicBool::new(false);
    let (sent, arrived) = migrate(&machine, &mut machine.tracker(), options, &never, &mut |_| {});
    let report = sent.unwrap();
    let machine = arrived.unwrap();
    machine.stop();
    machine.check();
    report
}

/// Each page is written once in a second, and so again after the first round has read it, and before most others are read.
#[test]
fn what_is_written_after_it_was_read_is_sent_again() {
    let load = Load { pattern: Pattern::Uniform, first: 16, hot: 512, rate: 512 };
    let report = moves(load, Duration::from_secs(1), &options());
    assert!(report.rounds.len() > 2, "{report:?}");
}

/// Pages that were holes when the first round began are sent as zeros without being read.
#[test]
fn holes_that_are_filled_while_they_are_passed_over_are_sent() {
    let load = Load { pattern: Pattern::Sequential, first: 16, hot: 4000, rate: 1_500 };
    moves(load, Duration::from_millis(400), &options());
}

/// No time is left after the first round, beside which pages were harvested.
#[test]
fn what_was_harvested_beside_the_last_round_is_sent_when_the_guest_stands_still() {
    let load = Load { pattern: Pattern::Uniform, first: 16, hot: 512, rate: 2_000 };
    let options = SendOptions { max_total: Some(Duration::from_millis(1)), ..options() };
    let report = moves(load, Duration::from_millis(500), &options);
    assert_eq!(report.rounds.len(), 2, "{report:?}");
    assert!(report.rounds[1].pages > 64, "{report:?}");
}
