//! Threads against each other: nothing lost, nothing torn, nothing out of order.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "small numbers; a panic is how a test fails"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use ringmark_dirty::{
    AtomicBitmap, Entry, Gfn, Harvested, Harvester, Memslot, Producer, SlotId, SlotTable, ring,
};

const SLOTS: u16 = 61;
const NPAGES: u64 = 1 << 30;

/// The slot that goes with an offset: a pair that does not match was put together from two entries.
fn slot_of(offset: u64) -> SlotId {
    SlotId::new(0, (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u16 % SLOTS)
}

fn table() -> SlotTable {
    let slot =
        |id: u16| Memslot { id: SlotId::new(0, id), base: Gfn(u64::from(id) * NPAGES), npages: NPAGES };
    SlotTable::new((0..SLOTS).map(slot)).unwrap()
}

/// A vCPU, a collector and a resetter, each in its thread, until `total` pages went round.
fn go_round(size: u32, reserve: u32, total: u64) {
    let memory: Arc<[Entry]> = ring::allocate(size).into();
    let producer = Producer::new(Arc::clone(&memory), reserve).unwrap();
    let mut harvester = Harvester::new(memory).unwrap();
    let table = table();
    thread::scope(|scope| {
        scope.spawn(|| {
            for offset in 0..total {
                while producer.is_soft_full() {
                    thread::yield_now();
                }
                assert!(!producer.push(slot_of(offset), offset).overwrote);
            }
        });
        scope.spawn(|| {
            let mut next = 0;
            while next < total {
                match producer.reset_next() {
                    Some(payload) => {
                        assert_eq!(payload, (slot_of(next).raw(), next));
                        next += 1;
                    }
                    None => thread::yield_now(),
                }
            }
            assert_eq!(producer.reset_next(), None);
        });
        let mut next = 0;
        while next < total {
            // Some drains are left half way.
            for harvested in harvester.harvest(&table).take(1 + next as usize % 700) {
                assert_eq!(harvested, Harvested::Page { slot: slot_of(next), offset: next });
                next += 1;
            }
            thread::yield_now();
        }
        assert_eq!(harvester.harvest(&table).count(), 0);
    });
    assert_eq!(producer.used(), 0);
}

#[test]
fn a_large_ring() {
    go_round(4096, 64, 2_000_000);
}

#[test]
fn a_ring_that_is_full_all_the_time() {
    go_round(2, 0, 100_000);
}

#[test]
fn a_ring_of_one_entry() {
    go_round(1, 0, 50_000);
}

/// Writers change a page and mark it; a collector takes marks and copies pages. The last copy must be the last page.
#[test]
fn no_change_of_a_marked_page_is_missed() {
    const PAGES: usize = 150;
    const WRITERS: u64 = 3;
    const ROUNDS: u64 = 100_000;
    let bitmap = AtomicBitmap::new(PAGES as u64);
    let pages: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    let mut copies = [0; PAGES];
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (bitmap, pages) = (&bitmap, &pages);
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        let page = (round * (2 * writer + 1) * 7919 % PAGES as u64) as usize;
                        pages[page].fetch_add(1, Ordering::Relaxed);
                        bitmap.set(page as u64);
                    }
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            loop {
                let last = done.load(Ordering::Acquire);
                for word in 0..bitmap.words() {
                    let mut bits = bitmap.swap_word(word, 0);
                    while bits != 0 {
                        let page = word * 64 + bits.trailing_zeros() as usize;
                        copies[page] = pages[page].load(Ordering::Relaxed);
                        bits &= bits - 1;
                    }
                }
                if last {
                    break;
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        collector.join().unwrap();
    });
    assert_eq!(copies.iter().sum::<u64>(), WRITERS * ROUNDS);
    assert!(pages.iter().zip(copies).all(|(page, copy)| page.load(Ordering::Relaxed) == copy));
}
