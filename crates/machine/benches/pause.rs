//! The pause of a checkpoint beside the time to write the same pages: `cargo bench -p ringmark-machine --bench pause`.
//!
//! A guest of 1 GiB with one vCPU writes its hot region as fast as it can, on /dev/kvm. For each of ten increments: the
//! pause, and, in the same run on the same file system, one plain write with fsync of as many bytes. Medians, and the ratio.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use ringmark_guest::Pattern;
use ringmark_image::Store;
use ringmark_machine::{Boot, CheckpointOptions, GuestSpec, HypervisorWish, Machine, MachineConfig};
use ringmark_track::Wish;

const INCREMENTS: usize = 10;
const MEMORY: u64 = 1 << 30;

fn main() {
    // `cargo test --benches` asks every bench to run nothing.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    if let Err(error) = ringmark_kvm::System::open() {
        eprintln!("SKIPPED pause: {error}");
        return;
    }
    println!("1 GiB, 1 vCPU, sequential writes without end, /dev/kvm; medians of {INCREMENTS} increments");
    println!(
        "{:>8} {:>8} {:>8} {:>10} {:>12} {:>12} {:>8}",
        "hot MiB", "tracking", "pages", "last round", "pause ms", "write ms", "ratio"
    );
    for (name, wish) in [("ring", Wish::Ring { entries: None }), ("bitmap", Wish::Bitmap)] {
        for hot in [16 << 20, 256 << 20] {
            measure(name, wish, hot);
        }
    }
}

fn measure(name: &str, tracking: Wish, hot: u64) {
    let dir = tempfile::tempdir_in(".").expect("a directory beside the build");
    let store = Store::create_or_open(dir.path().join("store")).expect("a store");
    let spec = GuestSpec { pattern: Pattern::Sequential, hot, pace: 0, seed: 1 };
    let config = MachineConfig {
        name: "pause".into(),
        memory: MEMORY,
        vcpus: 1,
        its: 1,
        hypervisor: HypervisorWish::Kvm,
        tracking,
        boot: Boot::Guest(spec),
        audit: None,
    };
    let machine = Machine::create(config, Box::new(io::sink())).expect("a machine");
    machine.resume().expect("a running guest");
    std::thread::sleep(Duration::from_millis(500));
    let (mut pauses, mut writes, mut pages, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=INCREMENTS {
        let taken =
            machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {}).expect("a checkpoint");
        // The base is not an increment.
        if round > 0 {
            pauses.push(taken.pause);
            pages.push(taken.stored.pages);
            last.push(taken.last_round);
            machine.pause().expect("a stopped guest");
            writes.push(plain_write(dir.path(), taken.stored.pages * machine.facts().page_size));
            machine.resume().expect("a running guest");
        }
        std::thread::sleep(Duration::from_millis(1500));
    }
    let (pause, write) = (median(pauses), median(writes));
    println!(
        "{:>8} {name:>8} {:>8} {:>10} {:>12.2} {:>12.1} {:>8.1}",
        hot >> 20,
        median(pages),
        median(last),
        pause.as_secs_f64() * 1e3,
        write.as_secs_f64() * 1e3,
        write.as_secs_f64() / pause.as_secs_f64()
    );
}

/// One sequential write of `bytes` that do not compress, made durable: the least that any snapshot of them costs.
fn plain_write(dir: &Path, bytes: u64) -> Duration {
    let chunk: Vec<u8> =
        (0..1_u64 << 20).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let path = dir.join("plain");
    let begun = Instant::now();
    let mut file = File::create(&path).expect("a file");
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        file.write_all(&chunk[..take]).expect("room on the disk");
        left -= take as u64;
    }
    file.sync_all().expect("a disk");
    let took = begun.elapsed();
    std::fs::remove_file(&path).expect("the file just written");
    took
}

fn median<T: Copy + Ord>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
