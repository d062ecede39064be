//! What an entry costs on its way through a ring, beside what a bitmap costs that says the same.
//!
//! `cargo bench -p ringmark-dirty --bench ring`

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "small numbers; nothing here depends on input"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringmark_dirty::{
    AtomicBitmap, DirtyPages, Entry, Gfn, Harvested, Harvester, Memslot, Producer, SlotId, SlotTable, ring,
};

const SLOT: SlotId = SlotId::new(0, 0);
const ENTRIES: u32 = 65536;
/// Left free, as KVM does.
const RESERVE: u32 = 64;

fn table(npages: u64) -> SlotTable {
    SlotTable::new([Memslot { id: SLOT, base: Gfn(0), npages }]).unwrap()
}

struct Ends {
    producer: Producer<Arc<[Entry]>>,
    harvester: Harvester<Arc<[Entry]>>,
}

impl Ends {
    fn new() -> Self {
        let memory: Arc<[Entry]> = ring::allocate(ENTRIES).into();
        let producer = Producer::new(Arc::clone(&memory), RESERVE).unwrap();
        Self { producer, harvester: Harvester::new(memory).unwrap() }
    }

    fn push(&self, count: u64, npages: u64) {
        for n in 1..=count {
            self.producer.push(SLOT, n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % npages);
        }
    }

    fn reset(&self) -> u64 {
        std::iter::from_fn(|| self.producer.reset_next()).map(|(_, offset)| offset).sum()
    }
}

/// Rings filled to the soft limit: 65,472 entries a round.
fn full(c: &mut Criterion) {
    let count = u64::from(ENTRIES - RESERVE);
    let npages = 1 << 17;
    let table = table(npages);
    let mut group = c.benchmark_group("a ring of 65536, soft-full, 512 MiB");
    group.throughput(Throughput::Elements(count));
    group.bench_function("push", |b| {
        b.iter_batched_ref(Ends::new, |ends| ends.push(count, npages), BatchSize::LargeInput);
    });
    let filled = || {
        let ends = Ends::new();
        ends.push(count, npages);
        ends
    };
    group.bench_function("harvest", |b| {
        b.iter_batched_ref(
            filled,
            |ends| {
                let mut sum = 0;
                for harvested in ends.harvester.harvest(&table) {
                    if let Harvested::Page { offset, .. } = harvested {
                        sum += offset;
                    }
                }
                sum
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("harvest into a DirtyPages", |b| {
        b.iter_batched_ref(
            || (filled(), DirtyPages::new(&table)),
            |(ends, pages)| {
                for harvested in ends.harvester.harvest(&table) {
                    if let Harvested::Page { slot, offset } = harvested {
                        pages.insert(slot, offset).unwrap();
                    }
                }
                pages.len()
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("reset", |b| {
        b.iter_batched_ref(
            || {
                let mut ends = filled();
                ends.harvester.harvest(&table).for_each(drop);
                ends
            },
            |ends| ends.reset(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// A thousand dirty pages of a terabyte, by ring and by bitmap.
fn sparse(c: &mut Criterion) {
    const NPAGES: u64 = 1 << 28;
    let table = table(NPAGES);
    let mut group = c.benchmark_group("1 TiB, 1000 dirty");
    group.throughput(Throughput::Elements(1000));
    let mut ends = Ends::new();
    group.bench_function("push, harvest and reset", |b| {
        b.iter(|| {
            ends.push(1000, NPAGES);
            let taken = ends.harvester.harvest(&table).count();
            ends.reset();
            black_box(taken)
        });
    });
    let bitmap = AtomicBitmap::new(NPAGES);
    group.bench_function("set and take from a bitmap, word by word", |b| {
        b.iter(|| {
            for n in 1..=1000u64 {
                bitmap.set(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % NPAGES);
            }
            let mut taken = 0;
            for word in 0..bitmap.words() {
                // A swap of every word would cost far more: look first, as `GET_DIRTY_LOG` does.
                if bitmap.load_word(word) != 0 {
                    taken += bitmap.swap_word(word, 0).count_ones();
                }
            }
            black_box(taken)
        });
    });
    group.finish();
}

criterion_group!(benches, full, sparse);
criterion_main!(benches);
