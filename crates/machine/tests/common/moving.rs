//! A machine that moves within one process, over a socket.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringmark_machine::{ArrivalOptions, Arrivals, HypervisorWish, Machine, MigrateError};
use ringmark_migrate::receive::{Arrived, ReceiveError, ReceiveOptions, ReceiveProgress, receive};
use ringmark_migrate::report::{Report, Status};
use ringmark_migrate::send::SendOptions;
use ringmark_migrate::{Address, Connector, Listener};
use ringmark_track::Wish;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn arrivals(hypervisor: HypervisorWish) -> ArrivalOptions {
    ArrivalOptions {
        name: None,
        hypervisor,
        tracking: Wish::Auto,
        audit: None,
        most_memory: None,
        seed: None,
    }
}

pub(crate) fn listener(dir: &Path) -> Listener {
    Listener::bind(Address::Unix(dir.join("arrive")), None, false, PATIENCE).unwrap()
}

pub(crate) fn connector(dir: &Path) -> Connector {
    Connector::new(Address::Unix(dir.join("arrive")), None, false, PATIENCE).unwrap()
}

/// Moves `machine`; a failure at the source ends the wait at the destination.
pub(crate) fn migrate(
    machine: &Machine,
    options: &SendOptions,
    arrivals: ArrivalOptions,
) -> (Result<Report, MigrateError>, Result<Arrived<Machine>, ReceiveError>) {
    let dir = tempfile::tempdir().unwrap();
    let listener = listener(dir.path());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let arriving = scope.spawn(|| {
            let mut arrivals = Arrivals::new(arrivals, || Box::new(io::sink()) as Box<_>);
            let stop = &stop;
            let mut watch = |progress: ReceiveProgress<'_>| {
                if let ReceiveProgress::TurnedAway(_) = progress {
                    stop.store(true, Ordering::SeqCst);
                }
            };
            receive(listener, &mut arrivals, &ReceiveOptions::default(), stop, &mut || None, &mut watch)
        });
        let to = connector(dir.path());
        let sent = machine.migrate(&to, options, &AtomicBool::new(false), &mut |_| {});
        (sent, arriving.join().unwrap())
    })
}

pub(crate) fn moved(
    machine: &Machine,
    options: &SendOptions,
    hypervisor: HypervisorWish,
) -> (Report, Machine) {
    let (report, arrived) = migrate(machine, options, arrivals(hypervisor));
    let (report, arrived) = (report.unwrap_or_else(|e| panic!("{e}")), arrived.unwrap());
    assert_eq!(report.status, Status::Completed);
    (report, arrived.machine)
}
