//! How long the guest stands still is a choice; what it costs the guest is said, and ends with the migration.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::engine::{Load, Machine, Pattern, migrate};
use ringmark_migrate::report::Status;
use ringmark_migrate::send::{DepartError, Prefer, SendOptions, SourceGuest};
use ringmark_migrate::wire::Encoding;

const SLOW: Load = Load { pattern: Pattern::Sequential, first: 2048, hot: 16, rate: 200 };
const FAST: Load = Load { pattern: Pattern::Sequential, first: 0, hot: 1024, rate: 100_000 };

/// What is sent costs what it is long.
fn options() -> SendOptions {
    SendOptions {
        encodings: vec![Encoding::Zero, Encoding::Word, Encoding::Raw],
        max_downtime: Duration::from_millis(150),
        ..SendOptions::default()
    }
}

fn guest(loads: &[Load]) -> Machine {
    let machine = Machine::new(4096, 4096, loads);
    machine.start();
    thread::sleep(Duration::from_millis(50));
    machine
}

fn whole(machine: &Machine) {
    thread::sleep(Duration::from_millis(20));
    machine.stop();
    machine.check();
}

static NEVER: AtomicBool = AtomicBool::new(false);

#[test]
fn a_standstill_that_takes_too_long_is_called_off_and_tried_again() {
    let machine = guest(&[SLOW]);
    machine.slow_stops.store(1, Ordering::SeqCst);
    let (sent, arrived) = migrate(&machine, &mut machine.tracker(), &options(), &NEVER, &mut |_| {});
    let report = sent.unwrap();
    assert_eq!(report.status, Status::Completed);
    assert_eq!(report.called_off.len(), 1, "{report:?}");
    assert!(report.called_off[0].elapsed >= 300.0);
    assert_eq!(machine.stops.load(Ordering::SeqCst), 2);
    whole(&arrived.unwrap());
}

#[test]
fn tries_are_bounded_and_then_it_is_as_was_preferred() {
    for prefer in [Prefer::Guest, Prefer::Downtime] {
        let machine = guest(&[SLOW]);
        machine.slow_stops.store(99, Ordering::SeqCst);
        let options = SendOptions { prefer, ..options() };
        let (sent, arrived) = migrate(&machine, &mut machine.tracker(), &options, &NEVER, &mut |_| {});
        assert_eq!(machine.stops.load(Ordering::SeqCst), 4);
        match prefer {
            Prefer::Guest => {
                let departed = sent.unwrap_err();
                assert!(matches!(*departed.error, DepartError::Goal { .. }), "{departed}");
                assert_eq!(departed.guest, SourceGuest::RunsOn);
                machine.slow_stops.store(0, Ordering::SeqCst);
                whole(&machine);
            }
            Prefer::Downtime => {
                assert_eq!(sent.unwrap().called_off.len(), 3);
                whole(&arrived.unwrap());
            }
        }
    }
}

/// Ten thousand pages a second, and a guest that writes ten times as many.
fn narrow() -> SendOptions {
    SendOptions { bandwidth: Some(40 << 20), max_downtime: Duration::from_millis(40), ..options() }
}

#[test]
fn the_vcpu_that_writes_is_slowed_down_and_the_other_is_not() {
    let machine = guest(&[FAST, SLOW]);
    let (sent, arrived) = migrate(&machine, &mut machine.tracker(), &narrow(), &NEVER, &mut |_| {});
    let report = sent.unwrap();
    let [fast, slow] = report.throttle.vcpus[..] else { panic!("{report:?}") };
    assert!(fast.rested > 0.0 && fast.share > 0.0 && fast.quota.is_some(), "{fast:?}");
    // Not at all, but for what a busy machine makes of its bursts.
    assert!(slow.rested < 0.01 && slow.quota.is_none(), "it stays below its share by itself: {slow:?}");
    // A round before which the sender was late holds more than others.
    let least = report.rounds.iter().map(|round| round.pages).min().unwrap();
    assert!(least < FAST.hot / 2, "without a throttle nearly all hot pages are in every round: {report:?}");
    whole(&arrived.unwrap());

    // Whoever prefers the guest does not have it slowed down.
    let machine = guest(&[FAST, SLOW]);
    let options = SendOptions { prefer: Prefer::Guest, ..narrow() };
    let (sent, _) = migrate(&machine, &mut machine.tracker(), &options, &NEVER, &mut |progress| {
        assert!(progress.report.throttle.vcpus.is_empty());
    });
    assert!(matches!(*sent.unwrap_err().error, DepartError::Goal { .. }));
    whole(&machine);
}

#[test]
fn a_guest_that_was_slowed_down_is_let_go_when_the_migration_fails() {
    let machine = guest(&[FAST, SLOW]);
    let mut tracker = machine.tracker();
    let cancel = AtomicBool::new(false);
    let (sent, _) = migrate(&machine, &mut tracker, &narrow(), &cancel, &mut |progress| {
        if !progress.report.throttle.vcpus.is_empty() {
            cancel.store(true, Ordering::SeqCst);
        }
    });
    assert!(matches!(*sent.unwrap_err().error, DepartError::Cancelled));
    let cost = tracker.throttle().cost();
    assert!(cost.iter().all(|vcpu| vcpu.quota.is_none()), "{cost:?}");
    let rested: Vec<_> = cost.iter().map(|vcpu| vcpu.rested).collect();
    thread::sleep(Duration::from_millis(100));
    let later: Vec<_> = tracker.throttle().cost().iter().map(|vcpu| vcpu.rested).collect();
    assert_eq!(rested, later, "nobody waits any more");
    whole(&machine);
}

#[test]
fn a_vcpu_that_is_slowed_down_stops_at_once() {
    let machine = guest(&[FAST]);
    let mut tracker = machine.tracker();
    tracker.arm().unwrap();
    let mut throttle = tracker.throttle();
    let mut epoch = tracker.open().unwrap();
    thread::sleep(Duration::from_millis(20));
    epoch.round().unwrap();
    // What it has written by now takes it minutes at this rate.
    throttle.hold_to(20.0);
    while throttle.cost()[0].share < 0.1 {
        epoch.round().unwrap();
        thread::sleep(Duration::from_millis(5));
        // By a stop that is none of the tracker's; it comes back however long the rest would be.
        machine.stop();
        machine.start();
    }
    let cut = epoch.cut().stop(Stopping(&machine)).unwrap();
    let (cut, ()) = cut.save_devices(|_| Ok(())).unwrap();
    let _ = cut.seal().unwrap().resume().unwrap();
    throttle.release();
    let count = machine.counts[0].load(Ordering::SeqCst);
    while machine.counts[0].load(Ordering::SeqCst) < count + 100 {
        thread::yield_now();
    }
}

/// Kicks as a monitor that knows of no throttle.
struct Stopping<'a>(&'a Machine);

impl ringmark_track::Vcpus for Stopping<'_> {
    fn stop(&mut self) -> Result<(), ringmark_track::BoxError> {
        self.0.stop_without_waking();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), ringmark_track::BoxError> {
        self.0.start();
        Ok(())
    }
}
