//! How fast images are written and restored, beside what `dd bs=1M conv=fsync` does: the same bytes, the same directory,
//! by turns.
//!
//! `cargo bench -p ringmark-image --bench throughput`; `RINGMARK_BENCH_DIR` says where (by default the place for temporary
//! files), `RINGMARK_BENCH_MIB` how much (512), `RINGMARK_BENCH_ROUNDS` how often (5). Names of pages behind `--` choose
//! among them.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark stops at any failure")]

mod common;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use common::{MIB, Random, Target, base, layout, median, noise, place, restore, text, wish};
use ringmark_image::{Durability, Store};

fn main() {
    let (mib, rounds) = (wish("RINGMARK_BENCH_MIB", 512), wish("RINGMARK_BENCH_ROUNDS", 5));
    // Cargo adds a flag of its own.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let place = place();
    let cores = std::thread::available_parallelism().unwrap();
    println!(
        "{mib} MiB in pages of {} bytes, {cores} cores, {}; medians of {rounds}",
        common::PAGE,
        place.path().display()
    );
    println!(
        "{:<16} {:>11} {:>11} {:>9} {:>11} {:>11} {:>9} {:>14}",
        "pages", "dd", "image", "of dd", "no fsync", "restore", "stored", "CPU s, dd/image"
    );
    let mut words = vec![0; mib * MIB];
    text(&mut words, &mut Random(5));
    let mut mixed = noise(mib * MIB);
    for (i, chunk) in mixed.chunks_mut(64 << 10).enumerate() {
        match i % 4 {
            0 => chunk.fill(0),
            1 | 2 => text(chunk, &mut Random(i as u64 + 1)),
            _ => {}
        }
    }
    for (name, memory) in [
        ("incompressible", noise(mib * MIB)),
        ("words", words),
        ("mixed", mixed),
        ("zero", vec![0; mib * MIB]),
    ] {
        if chosen.is_empty() || chosen.iter().any(|c| c == name) {
            measure(name, &memory, mib, rounds, place.path());
        }
    }
}

fn measure(name: &str, memory: &[u8], mib: usize, rounds: usize, dir: &Path) {
    let store = Store::create_or_open(dir.join("store")).unwrap();
    let layout = layout(mib);
    let target = Target::new(memory.len());
    let (mut plain, mut image, mut relaxed, mut back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cpu_plain, mut cpu_image, mut stored) = (0.0, 0.0, 0);
    for _ in 0..rounds {
        let (used, start) = (cpu(), Instant::now());
        let path = dir.join("plain");
        let mut file = File::create(&path).unwrap();
        memory.chunks(MIB).for_each(|chunk| file.write_all(chunk).unwrap());
        file.sync_all().unwrap();
        plain.push(start.elapsed().as_secs_f64());
        cpu_plain += cpu() - used;
        std::fs::remove_file(&path).unwrap();

        let (used, start) = (cpu(), Instant::now());
        let finished = base(&store, &layout, memory);
        image.push(start.elapsed().as_secs_f64());
        cpu_image += cpu() - used;
        stored = finished.bytes_stored;

        let opened = Store::open(store.location()).unwrap().image(finished.id).unwrap();
        let start = Instant::now();
        restore(&opened, &target);
        back.push(start.elapsed().as_secs_f64());
        assert!(name == "zero" || name == "mixed" || target.holds(memory));
        store.remove(&[finished.id]).unwrap();

        let hasty = store.clone().durability(Durability::None);
        let start = Instant::now();
        let finished = base(&hasty, &layout, memory);
        relaxed.push(start.elapsed().as_secs_f64());
        store.remove(&[finished.id]).unwrap();
    }
    let rate = |times: &mut Vec<f64>| mib as f64 / median(times);
    let (plain, image, relaxed, back) =
        (rate(&mut plain), rate(&mut image), rate(&mut relaxed), rate(&mut back));
    println!(
        "{name:<16} {plain:>5.0} MiB/s {image:>5.0} MiB/s {:>7.0} % {relaxed:>5.0} MiB/s {back:>5.0} MiB/s {:>7.1} % {:>6.2} /{:>6.2}",
        100.0 * image / plain,
        100.0 * stored as f64 / memory.len() as f64,
        cpu_plain / rounds as f64,
        cpu_image / rounds as f64,
    );
}

/// Seconds of processor time that this process has used, in steps of a hundredth.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.iter().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}
