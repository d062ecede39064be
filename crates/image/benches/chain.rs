//! What a chain of increments costs: a restore of its end beside one of a base with the same contents, and the time until
//! the first page, for memories and chains of several sizes.
//!
//! `cargo bench -p ringmark-image --bench chain`; `RINGMARK_BENCH_DIR` says where, `RINGMARK_BENCH_MIB` how much memory
//! (512), `RINGMARK_BENCH_CHAIN` how many increments (200), `RINGMARK_BENCH_PAGES` how many pages each has (1000),
//! `RINGMARK_BENCH_ROUNDS` how often (7).
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark stops at any failure")]

mod common;

use std::time::Instant;

use common::{MIB, PAGE, Random, Target, base, layout, median, place, restore, slot, spec, text, wish};
use ringmark_image::{Image, ImageId, Store};

fn main() {
    let (mib, length) = (wish("RINGMARK_BENCH_MIB", 512), wish("RINGMARK_BENCH_CHAIN", 200));
    let (pages, rounds) = (wish("RINGMARK_BENCH_PAGES", 1000), wish("RINGMARK_BENCH_ROUNDS", 7));
    for (name, writes) in [("hot runs", Writes::HotRuns), ("uniform pages", Writes::Uniform)] {
        chain(name, writes, mib, length, pages, rounds);
    }
    starts(rounds);
}

/// Which pages an increment has.
#[derive(Clone, Copy)]
enum Writes {
    /// Runs of 1 to 32 pages; nine of ten in a tenth of the memory.
    HotRuns,
    /// Single pages anywhere.
    Uniform,
}

impl Writes {
    /// First page and pages.
    fn next(self, random: &mut Random, all: u64) -> (u64, u64) {
        let (pages, range) = match self {
            Self::HotRuns if !random.next().is_multiple_of(10) => (1 + random.next() % 32, all / 10),
            Self::HotRuns => (1 + random.next() % 32, all),
            Self::Uniform => (1, all),
        };
        let first = random.next() % range;
        (first, pages.min(all - first))
    }
}

fn chain(name: &str, writes: Writes, mib: usize, length: usize, pages: usize, rounds: usize) {
    let place = place();
    let store = Store::create_or_open(place.path().join("store")).unwrap();
    let layout = layout(mib);
    let mut random = Random(11);
    let mut memory = vec![0; mib * MIB];
    text(&mut memory, &mut random);
    let mut top = base(&store, &layout, &memory).id;
    let (mut index, mut stored) = (0.0, 0);
    for _ in 0..length {
        let mut writer = store.begin(spec(&layout, Some(top))).unwrap();
        let mut put = 0;
        while put < pages {
            let (first, count) = writes.next(&mut random, (memory.len() / PAGE) as u64);
            let at = usize::try_from(first).unwrap() * PAGE;
            let bytes = &mut memory[at..at + usize::try_from(count).unwrap() * PAGE];
            text(bytes, &mut random);
            writer.put(slot(), first, bytes).unwrap();
            put += bytes.len() / PAGE;
        }
        let start = Instant::now();
        let finished = writer.finish().unwrap();
        index += start.elapsed().as_secs_f64();
        stored += finished.bytes_stored;
        top = finished.id;
    }
    let alone = base(&store, &layout, &memory).id;
    let target = Target::new(memory.len());
    let (mut ones, mut chains, mut opens) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (id, times) in [(alone, &mut ones), (top, &mut chains)] {
            let start = Instant::now();
            let image = open(&store, id);
            opens.push(start.elapsed().as_secs_f64());
            restore(&image, &target);
            times.push(start.elapsed().as_secs_f64());
        }
        assert!(target.holds(&memory));
    }
    let (one, chain) = (median(&mut ones), median(&mut chains));
    println!(
        "{name}: {mib} MiB, {length} increments of {pages} pages, medians of {rounds}: base {:.0} ms, chain {:.0} ms, {:+.1} %; an \
         increment took {:.1} ms and {} KiB",
        one * 1e3,
        chain * 1e3,
        100.0 * (chain / one - 1.0),
        index / length as f64 * 1e3,
        stored / 1024 / length as u64,
    );
}

/// Opening an image and reading one page of it, as a lazy restore does before the guest's first instruction.
fn starts(rounds: usize) {
    for (mib, length) in [(256, 0), (1024, 0), (4096, 0), (256, 200)] {
        let place = place();
        let store = Store::create_or_open(place.path().join("store")).unwrap();
        let layout = layout(mib);
        let mut chunk = vec![0; MIB];
        text(&mut chunk, &mut Random(3));
        let mut writer = store.begin(spec(&layout, None)).unwrap();
        for i in 0..mib as u64 {
            // Not all the same: one page of each is its own.
            chunk[..8].copy_from_slice(&i.to_le_bytes());
            writer.put(slot(), i * (MIB / PAGE) as u64, &chunk).unwrap();
        }
        let mut id = writer.finish().unwrap().id;
        let mut random = Random(9);
        for _ in 0..length {
            let mut writer = store.begin(spec(&layout, Some(id))).unwrap();
            let mut page = [0; PAGE];
            random.fill(&mut page);
            writer.put(slot(), random.next() % layout.pages(), &page).unwrap();
            id = writer.finish().unwrap().id;
        }
        let mut times: Vec<f64> = (0..rounds * 20)
            .map(|_| {
                let start = Instant::now();
                let image = open(&store, id);
                image.page(slot(), random.next() % layout.pages(), &mut [0; PAGE]).unwrap();
                start.elapsed().as_secs_f64()
            })
            .collect();
        let worst = times.iter().copied().fold(0.0, f64::max);
        println!(
            "{mib} MiB, chain of {length}: open and first page {:.2} ms, at most {:.2} ms",
            median(&mut times) * 1e3,
            worst * 1e3
        );
    }
}

/// Opens the image with nothing read before.
fn open(store: &Store, id: ImageId) -> Image {
    Store::open(store.location()).unwrap().image(id).unwrap()
}
