//! After a cut link a migration goes on from what the destination holds, and a destination with an old image gets what differs.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::engine::{Arrivals, Load, Machine, PAGE, Pattern, Ram};
use common::proxy::{Break, Proxy, Way};
use ringmark_migrate::receive::{ReceiveOptions, ReceiveProgress, receive};
use ringmark_migrate::report::Report;
use ringmark_migrate::send::{DepartError, Departed, Resumable, SendOptions, SourceGuest, depart, resume};
use ringmark_migrate::wire::Encoding;
use ringmark_migrate::{Address, Connector, Listener};
use ringmark_track::Tracker;

const PATIENCE: Duration = Duration::from_secs(20);
const STREAM: u8 = 2;
const MEMORY: u64 = 8192;
/// 16 MiB that were written once, and half a mebibyte that is written all the time.
const COLD: Load = Load { pattern: Pattern::Sequential, first: 0, hot: 4096, rate: 1_000_000 };
const HOT: Load = Load { pattern: Pattern::Uniform, first: 5000, hot: 128, rate: 3_000 };

const ALL: u64 = 16 << 20;

/// A destination that waits for machines until one runs.
struct Destination {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Option<Machine>, Vec<String>)>,
    _dir: tempfile::TempDir,
}

impl Destination {
    fn start(keep: Duration, seed: Option<Arc<Ram>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = Listener::bind(Address::Unix(path.clone()), None, false, PATIENCE).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut said = Vec::new();
            let options = ReceiveOptions { keep, ..ReceiveOptions::default() };
            let mut arrivals = Arrivals { entries: 4096, seed };
            let arrived =
                receive(listener, &mut arrivals, &options, &stopped, &mut || None, &mut |progress| {
                    if let ReceiveProgress::TurnedAway(why) = progress {
                        said.push(why.to_owned());
                    }
                });
            (arrived.ok().map(|arrived| arrived.machine), said)
        });
        Self { path, stop, thread, _dir: dir }
    }

    fn proxy(&self, at: Option<Break>) -> Proxy {
        Proxy::start(self._dir.path().join("front"), self.path.clone(), at)
    }

    /// The machine that runs, if one does, and why others do not.
    fn end(self) -> (Option<Machine>, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn options() -> SendOptions {
    // What is sent can be told by its length.
    SendOptions { encodings: vec![Encoding::Zero, Encoding::Word, Encoding::Raw], ..SendOptions::default() }
}

fn guest() -> Machine {
    let machine = Machine::new(MEMORY, 4096, &[COLD, HOT]);
    machine.start();
    while machine.counts[0].load(Ordering::SeqCst) < COLD.hot {
        thread::sleep(Duration::from_millis(5));
    }
    // From here on the first vCPU writes next to nothing.
    machine.slow_down(0, 500);
    machine
}

fn to(path: &std::path::Path) -> Connector {
    Connector::new(Address::Unix(path.to_owned()), None, false, PATIENCE).unwrap()
}

fn leave(machine: &Machine, tracker: &mut Tracker, path: &std::path::Path) -> Result<Report, Departed> {
    let never = AtomicBool::new(false);
    depart(machine, &machine.identity(), tracker, &to(path), &options(), &never, &mut |_| {})
}

fn go_on(
    machine: &Machine,
    tracker: &mut Tracker,
    path: &std::path::Path,
    resumable: Resumable,
) -> Result<Report, Departed> {
    let never = AtomicBool::new(false);
    let identity = machine.identity();
    let mut resumable = resumable;
    loop {
        let sent = resume(machine, &identity, tracker, &to(path), &options(), resumable, &never, &mut |_| {});
        match sent {
            // It has not noticed yet that the link is gone, and says so.
            Err(Departed { error, resumable: Some(same), .. })
                if matches!(*error, DepartError::Refused(_)) =>
            {
                resumable = *same;
                thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn whole(machine: Option<Machine>) {
    let machine = machine.unwrap();
    thread::sleep(Duration::from_millis(10));
    machine.stop();
    machine.check();
}

/// Pages that were sent with their contents.
fn sent(report: &Report) -> u64 {
    report.ram.normal
}

#[test]
fn it_goes_on_from_what_the_destination_holds() {
    for after in [100, 3 << 20, 8 << 20, ALL - 1000, ALL + 200_000] {
        let destination = Destination::start(Duration::from_secs(60), None);
        let at = Break { role: STREAM, way: Way::ToDestination, after, heals: true };
        let proxy = destination.proxy(Some(at));
        let machine = guest();
        let mut tracker = machine.tracker();
        if after > 1000 {
            // As after a checkpoint: what the epoch of the migration begins with is not all that has to be sent.
            tracker.arm().unwrap();
            commit(&machine, &mut tracker);
        }
        let departed = leave(&machine, &mut tracker, &proxy.path).unwrap_err();
        assert_eq!(departed.guest, SourceGuest::RunsOn, "{departed}");
        let resumable = *departed.resumable.unwrap();
        thread::sleep(Duration::from_millis(30));
        let report = go_on(&machine, &mut tracker, &proxy.path, resumable).unwrap();
        assert!(report.resumed, "cut after {after} bytes");
        // What is on its way when the link breaks is less than a window of 8 MiB, and the acknowledgement of a mebibyte.
        let unconfirmed = (ALL + (9 << 20)).saturating_sub(after).min(ALL) / PAGE as u64;
        println!("cut after {after} bytes: {} pages were sent again", sent(&report));
        assert!(report.rounds[0].pages <= unconfirmed + MEMORY - COLD.hot, "{report:?}");
        if after > ALL {
            // A receiver that came to run late has confirmed all but a window, which is half of them.
            assert!(
                sent(&report) < COLD.hot * 3 / 4,
                "what was confirmed and the same was sent again: {report:?}"
            );
        }
        let (arrived, said) = destination.end();
        assert!(said.iter().any(|why| why.contains("is kept for")), "{said:?}");
        whole(arrived);
    }
}

#[test]
fn it_is_cut_again_and_again() {
    let destination = Destination::start(Duration::from_secs(60), None);
    let machine = guest();
    let mut tracker = machine.tracker();
    let mut resumable: Option<Resumable> = None;
    for _ in 0..4 {
        let at = Break { role: STREAM, way: Way::ToDestination, after: 3 << 20, heals: false };
        let _ = std::fs::remove_file(destination._dir.path().join("front"));
        let proxy = destination.proxy(Some(at));
        let sent = match resumable.take() {
            None => leave(&machine, &mut tracker, &proxy.path),
            Some(resumable) => go_on(&machine, &mut tracker, &proxy.path, resumable),
        };
        match sent {
            Err(departed) => resumable = Some(*departed.resumable.unwrap()),
            Ok(_) => break,
        }
    }
    if let Some(resumable) = resumable {
        assert!(go_on(&machine, &mut tracker, &destination.path, resumable).unwrap().resumed);
    }
    whole(destination.end().0);
}

#[test]
fn without_what_it_needs_it_begins_anew() {
    for what in ["nothing is kept", "tracking began anew", "another destination"] {
        let keep = if what == "nothing is kept" { Duration::ZERO } else { Duration::from_secs(60) };
        let destination = Destination::start(keep, None);
        let at = Break { role: STREAM, way: Way::ToDestination, after: 9 << 20, heals: true };
        let proxy = destination.proxy(Some(at));
        let machine = guest();
        let mut tracker = machine.tracker();
        let departed = leave(&machine, &mut tracker, &proxy.path).unwrap_err();
        let Some(resumable) = departed.resumable else {
            assert_eq!(what, "nothing is kept");
            whole(leave(&machine, &mut tracker, &proxy.path).ok().and_then(|_| destination.end().0));
            continue;
        };
        let other = Destination::start(keep, None);
        let path = if what == "another destination" { &other.path } else { &proxy.path };
        if what == "tracking began anew" {
            tracker.arm().unwrap();
        }
        let report = go_on(&machine, &mut tracker, path, *resumable).unwrap();
        assert!(!report.resumed && sent(&report) >= COLD.hot, "{what}: {report:?}");
        let arrived = [destination.end().0, other.end().0].into_iter().flatten().next();
        whole(arrived);
    }
}

#[test]
fn checkpoints_that_are_taken_meanwhile_change_nothing() {
    let destination = Destination::start(Duration::from_secs(60), None);
    let at = Break { role: STREAM, way: Way::ToDestination, after: ALL + (1 << 18), heals: true };
    let proxy = destination.proxy(Some(at));
    let machine = guest();
    let mut tracker = machine.tracker();
    let departed = leave(&machine, &mut tracker, &proxy.path).unwrap_err();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(20));
        // What was written is in no later epoch, and not at the destination either.
        commit(&machine, &mut tracker);
    }
    let report = go_on(&machine, &mut tracker, &proxy.path, *departed.resumable.unwrap()).unwrap();
    assert!(report.resumed && sent(&report) < COLD.hot, "{report:?}");
    whole(destination.end().0);
}

#[test]
fn what_is_kept_makes_room_for_a_machine_that_is_offered_anew() {
    let destination = Destination::start(Duration::from_secs(60), None);
    let at = Break { role: STREAM, way: Way::ToDestination, after: 9 << 20, heals: true };
    let proxy = destination.proxy(Some(at));
    let machine = guest();
    let mut tracker = machine.tracker();
    let departed = leave(&machine, &mut tracker, &proxy.path).unwrap_err();
    assert!(departed.resumable.is_some());
    // From the start, and so without what is kept.
    let report = leave(&machine, &mut tracker, &proxy.path).unwrap();
    assert!(!report.resumed && sent(&report) >= COLD.hot, "{report:?}");
    let (arrived, said) = destination.end();
    assert!(said.iter().any(|why| why.contains("thrown away")), "{said:?}");
    whole(arrived);
}

/// An epoch of somebody else's.
fn commit(machine: &Machine, tracker: &mut Tracker) {
    let cut = tracker.open().unwrap().cut().stop(Stopped(machine)).unwrap();
    cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap().resume().unwrap().commit();
}

struct Stopped<'a>(&'a Machine);

impl ringmark_track::Vcpus for Stopped<'_> {
    fn stop(&mut self) -> Result<(), ringmark_track::BoxError> {
        self.0.stop();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), ringmark_track::BoxError> {
        self.0.start();
        Ok(())
    }
}

#[test]
fn an_old_image_spares_what_is_still_the_same() {
    let machine = guest();
    machine.stop();
    let image = machine.ram.copy();
    // A page of the image that rotted on its disk is one that differs.
    ringmark_migrate::codec::PageStore::write(&*image, common::engine::RAM, 7, &[0xee; PAGE]).unwrap();
    machine.start();
    thread::sleep(Duration::from_millis(30));
    let destination = Destination::start(Duration::from_secs(60), Some(image));
    let mut tracker = machine.tracker();
    let report = leave(&machine, &mut tracker, &destination.path).unwrap();
    println!("{} of {} pages were known, {} were sent", report.ram.known, MEMORY, sent(&report));
    assert!(report.ram.known > COLD.hot - 200, "{report:?}");
    assert!(report.rounds[0].bytes < (1 << 20) + 256 * PAGE as u64, "{report:?}");
    whole(destination.end().0);
}
