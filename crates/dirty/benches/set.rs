//! A terabyte of guest memory with a thousand dirty pages: `DirtySet` beside a walk of a flat bitmap.
//!
//! `cargo bench -p ringmark-dirty --bench set`

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "small numbers; nothing here depends on input"
)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringmark_dirty::DirtySet;

/// 1 TiB in pages of 4 KiB.
const NPAGES: u64 = 1 << 28;
const DIRTY: u64 = 1000;

/// Pages all over the slot, in no order.
fn scattered(count: u64) -> Vec<u64> {
    (1..=count).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36).collect()
}

/// Twenty regions of fifty pages: what guests do.
fn clustered(count: u64) -> Vec<u64> {
    (0..count).map(|n| (scattered(count / 50 + 1)[(n / 50) as usize] & !63) + n % 50).collect()
}

fn set_of(pages: &[u64]) -> DirtySet {
    let mut set = DirtySet::new(NPAGES);
    for &page in pages {
        set.insert(page);
    }
    set
}

fn flat_of(pages: &[u64]) -> Vec<u64> {
    let mut words = vec![0; (NPAGES / 64) as usize];
    for page in pages {
        words[(page / 64) as usize] |= 1 << (page % 64);
    }
    words
}

fn walk(words: &[u64]) -> u64 {
    let mut sum = 0;
    for (index, &word) in words.iter().enumerate() {
        let mut bits = word;
        while bits != 0 {
            sum += index as u64 * 64 + u64::from(bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
    sum
}

fn thousand(c: &mut Criterion, name: &str, pages: &[u64]) {
    let mut group = c.benchmark_group(format!("1 TiB, 1000 dirty, {name}"));
    group.throughput(Throughput::Elements(DIRTY));
    let set = set_of(pages);
    let other = set_of(&pages.iter().map(|page| page ^ 1 << 20).collect::<Vec<_>>());
    group.bench_function("insert", |b| b.iter(|| set_of(black_box(pages))));
    group.bench_function("iterate", |b| b.iter(|| black_box(&set).iter().sum::<u64>()));
    group.bench_function("runs", |b| b.iter(|| black_box(&set).runs().map(|run| run.end).sum::<u64>()));
    group.bench_function("count", |b| b.iter(|| black_box(&set).len()));
    group.bench_function("take and put back", |b| {
        let mut owner = set.clone();
        b.iter(|| {
            let taken = black_box(&mut owner).take();
            owner = taken;
        });
    });
    group.bench_function("union", |b| {
        b.iter_batched_ref(|| set.clone(), |set| set.union_with(&other), BatchSize::SmallInput);
    });
    group.bench_function("subtract", |b| {
        b.iter_batched_ref(|| set.clone(), |set| set.subtract(&other), BatchSize::SmallInput);
    });
    group.finish();
}

fn flat(c: &mut Criterion) {
    let mut group = c.benchmark_group("1 TiB, 1000 dirty, flat bitmap");
    let mut words = flat_of(&scattered(DIRTY));
    group.bench_function("iterate", |b| b.iter(|| walk(black_box(&words))));
    group.bench_function("count", |b| {
        b.iter(|| black_box(&words).iter().map(|word| u64::from(word.count_ones())).sum::<u64>());
    });
    group.bench_function("clear", |b| b.iter(|| black_box(&mut words).fill(0)));
    group.finish();
}

/// A million pages one after another, and the words of `KVM_GET_DIRTY_LOG` for as many.
fn dense(c: &mut Criterion) {
    const PAGES: u64 = 1 << 20;
    let mut group = c.benchmark_group("1 TiB, 4 GiB dirty in a row");
    group.throughput(Throughput::Elements(PAGES));
    group.sample_size(20);
    let row: Vec<u64> = (NPAGES / 3..NPAGES / 3 + PAGES).collect();
    group.bench_function("insert", |b| b.iter(|| set_of(black_box(&row))));
    group.bench_function("insert_range", |b| {
        b.iter(|| DirtySet::new(NPAGES).insert_range(black_box(NPAGES / 3..NPAGES / 3 + PAGES)));
    });
    let words = vec![0x5555_5555_5555_5555; (PAGES / 64) as usize];
    group.bench_function("insert_words, every other page", |b| {
        b.iter(|| DirtySet::new(NPAGES).insert_words(NPAGES / 2, black_box(&words)));
    });
    let set = set_of(&row);
    group.bench_function("iterate", |b| b.iter(|| black_box(&set).iter().sum::<u64>()));
    group.finish();
}

fn sets(c: &mut Criterion) {
    thousand(c, "scattered", &scattered(DIRTY));
    thousand(c, "in 20 regions", &clustered(DIRTY));
    flat(c);
    dense(c);
}

criterion_group!(benches, sets);
criterion_main!(benches);
