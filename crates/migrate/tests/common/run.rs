//! One migration of the toy guest over a link that may break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringmark_migrate::receive::{Arrived, Decision, ReceiveError, ReceiveOptions, ReceiveProgress, receive};
use ringmark_migrate::report::Report;
use ringmark_migrate::send::{Departed, SendOptions, depart};
use ringmark_migrate::{Address, Connector, Listener};

use super::guest::{Arrivals, Machine, Running};
use super::proxy::{Break, Proxy};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Received = Result<Arrived<Machine>, ReceiveError>;

/// What became of a migration.
pub struct Outcome {
    pub running: Running,
    pub source: Machine,
    pub sent: Result<Report, Departed>,
    pub received: Received,
    pub proxy: Proxy,
    /// The destination stood still and waited for the source's word.
    pub destination_undecided: bool,
}

/// Migrates over a proxy that breaks as `at` says.
pub fn migrate(at: Option<Break>, options: &SendOptions, refuse: bool) -> Outcome {
    migrate_a(Machine::new, at, options, refuse)
}

/// As [`migrate`], of the machine that `make` makes.
pub fn migrate_a(
    make: impl FnOnce(&Running) -> Machine,
    at: Option<Break>,
    options: &SendOptions,
    refuse: bool,
) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let (front, back) = (dir.path().join("front"), dir.path().join("back"));
    let listener = Listener::bind(Address::Unix(back.clone()), None, false, PATIENCE).unwrap();
    let proxy = Proxy::start(front, back, at);
    let running = Running::default();
    let stop = Arc::new(AtomicBool::new(false));
    // Says, when the source has come to its end, what a person would who has looked at it.
    let source_runs: Arc<std::sync::Mutex<Option<bool>>> = Arc::default();
    let receiver = thread::spawn({
        let (running, stop, source_runs) = (running.clone(), Arc::clone(&stop), Arc::clone(&source_runs));
        move || {
            let mut undecided = false;
            let mut decide = || {
                source_runs.lock().unwrap().map(|runs| if runs { Decision::Discard } else { Decision::Run })
            };
            let received = receive(
                listener,
                &mut Arrivals { running, refuse },
                &ReceiveOptions::default(),
                &stop,
                &mut decide,
                &mut |progress| undecided |= matches!(progress, ReceiveProgress::Undecided(_)),
            );
            (received, undecided)
        }
    });
    let source = make(&running);
    source.start();
    let mut tracker = source.tracker();
    let to = Connector::new(Address::Unix(proxy.path.clone()), None, false, PATIENCE).unwrap();
    let sent = depart(
        &source,
        &Machine::identity(),
        &mut tracker,
        &to,
        options,
        &AtomicBool::new(false),
        &mut |_| {},
    );
    *source_runs.lock().unwrap() =
        Some(matches!(&sent, Err(departed) if departed.guest == ringmark_migrate::send::SourceGuest::RunsOn));
    stop.store(true, Ordering::SeqCst);
    let (received, destination_undecided) = receiver.join().unwrap();
    Outcome { running, source, sent, received, proxy, destination_undecided }
}
