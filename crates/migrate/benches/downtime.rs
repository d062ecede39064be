//! What a migration costs, with the library alone: `cargo bench -p ringmark-migrate --bench downtime`.
//!
//! A guest of 1 GiB on the engine writes its hot pages one after the other, 100,000 a second: what a guest on `kvm_pvm` does
//! that writes as fast as it can, for which the first store to a protected page costs some 10 µs. The destination is
//! another process, the way there a Unix socket or TCP on the loopback. Ten migrations of each kind; medians, in ms.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark may fail, and prints"
)]

#[path = "../tests/common/engine.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod engine;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use engine::{Arrivals, Load, Machine, Pattern};
use ringmark_migrate::receive::{ReceiveOptions, receive};
use ringmark_migrate::report::Report;
use ringmark_migrate::send::{SendOptions, depart};
use ringmark_migrate::{Address, Connector, Listener};

const PAGES: u64 = 1 << 18;
const ENTRIES: u32 = 65_536;
const RATE: u64 = 100_000;
const RUNS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(20);
/// Where a destination process listens.
const DESTINATION: &str = "RINGMARK_BENCH_DESTINATION";

fn main() {
    // `cargo test --benches` asks every bench to run nothing.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    if let Ok(address) = std::env::var(DESTINATION) {
        return arrive(&address);
    }
    println!("1 GiB, 1 vCPU, sequential writes, {RATE} pages/s; medians of {RUNS} migrations, in ms");
    println!(
        "{:<6} {:>8} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9} | {:>6} {:>6} {:>7} {:>6} {:>8} {:>6} {:>6} {:>6} | {:>5} {:>9}",
        "way",
        "hot MiB",
        "streams",
        "setup",
        "first",
        "total",
        "downtime",
        "worst",
        "kick",
        "save",
        "harvest",
        "pages",
        "transfer",
        "digest",
        "load",
        "resume",
        "last",
        "rounds"
    );
    for way in ["unix", "tcp"] {
        for hot in [4_096, 65_536] {
            for streams in [1, 2] {
                measure(way, hot, streams);
            }
        }
    }
}

/// The destination: one machine arrives, runs for a moment, and is whole.
fn arrive(address: &str) {
    let listener = Listener::bind(address.parse().unwrap(), None, false, PATIENCE).unwrap();
    let arrived = receive(
        listener,
        &mut Arrivals { entries: ENTRIES, seed: None },
        &ReceiveOptions::default(),
        &AtomicBool::new(false),
        &mut || None,
        &mut |_| {},
    );
    let machine = arrived.unwrap().machine;
    thread::sleep(Duration::from_millis(20));
    machine.stop();
    machine.check();
}

struct Destination(Child);

impl Destination {
    fn start(address: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .env(DESTINATION, address)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn migration(address: &str, hot: u64, streams: u16) -> Report {
    let mut destination = Destination::start(address);
    let load = Load { pattern: Pattern::Sequential, first: 16, hot, rate: RATE };
    let machine = Machine::new(PAGES, ENTRIES, &[load]);
    let mut tracker = machine.tracker();
    machine.start();
    // Every hot page has been written once, and the destination listens.
    thread::sleep(Duration::from_millis(50) + Duration::from_nanos(1_000_000_000 / RATE * hot));
    let to = Connector::new(address.parse::<Address>().unwrap(), None, false, PATIENCE).unwrap();
    let options = SendOptions { streams, max_downtime: Duration::from_millis(5), ..SendOptions::default() };
    let identity = machine.identity();
    let sent = depart(&machine, &identity, &mut tracker, &to, &options, &AtomicBool::new(false), &mut |_| {});
    let report = sent.unwrap();
    assert!(destination.0.wait().unwrap().success(), "the guest was not whole at the destination");
    report
}

fn measure(way: &str, hot: u64, streams: u16) {
    let dir = tempfile::tempdir().unwrap();
    let reports: Vec<Report> = (0..RUNS)
        .map(|run| {
            let address = match way {
                "unix" => format!("unix:{}", dir.path().join(run.to_string()).display()),
                _ => format!("tcp:127.0.0.1:{}", 47_000 + run),
            };
            migration(&address, hot, streams)
        })
        .collect();
    let median = |of: &dyn Fn(&Report) -> f64| {
        let mut values: Vec<f64> = reports.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        f64::midpoint(values[(RUNS - 1) / 2], values[RUNS / 2])
    };
    let worst = reports.iter().map(|report| report.downtime).fold(0.0, f64::max);
    let last = |report: &Report| report.rounds.last().map_or(0.0, |round| round.pages as f64);
    println!(
        "{way:<6} {:>8} {streams:>7} {:>7.1} {:>7.1} {:>7.1} {:>9.3} {worst:>9.3} | {:>6.3} {:>6.3} {:>7.3} {:>6.3} {:>8.3} {:>6.3} {:>6.3} {:>6.3} | {:>5.0} {:>9.0}",
        hot >> 8,
        median(&|report| report.setup_time),
        median(&|report| report.rounds[0].elapsed),
        median(&|report| report.total_time),
        median(&|report| report.downtime),
        median(&|report| report.downtime_breakdown.kick),
        median(&|report| report.downtime_breakdown.save),
        median(&|report| report.downtime_breakdown.harvest),
        median(&|report| report.downtime_breakdown.pages),
        median(&|report| report.downtime_breakdown.transfer),
        median(&|report| report.downtime_breakdown.digest),
        median(&|report| report.downtime_breakdown.load),
        median(&|report| report.downtime_breakdown.resume),
        median(&last),
        median(&|report| report.rounds.len() as f64),
    );
}
