//! Every interleaving and every memory order that the C11 model allows, for small cases.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p ringmark-dirty --test loom`
//!
//! Under loom each access to an entry's payload is also held to the rules of plain memory, so a model fails when a
//! release or acquire is missing even where no wrong value can be observed. The tests named `weak_…` are controls:
//! they leave one ordering out and must fail.

#![allow(clippy::unwrap_used, reason = "small numbers; a panic is how a test fails")]
#![cfg(loom)]

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use ringmark_dirty::{
    AtomicBitmap, Entry, FLAG_DIRTY, FLAG_RESET, Gfn, Harvested, Harvester, Memslot, Producer, SlotId,
    SlotTable, ring,
};

const SLOT: SlotId = SlotId::new(0, 1);

type Memory = std::sync::Arc<[Entry]>;

fn table() -> SlotTable {
    SlotTable::new([Memslot { id: SLOT, base: Gfn(0), npages: 100 }]).unwrap()
}

/// Both ends of a ring of two entries.
fn ends() -> (Arc<Producer<Memory>>, Memory) {
    ends_at(0)
}

/// The same, whose counters have come to `index`.
fn ends_at(index: u32) -> (Arc<Producer<Memory>>, Memory) {
    let memory: Memory = ring::allocate(2).into();
    (Arc::new(Producer::starting_at(memory.clone(), 0, index).unwrap()), memory)
}

fn push_up_to(producer: &Producer<Memory>, next: &mut u64, end: u64) {
    while *next < end && producer.used() < producer.size() {
        producer.push(SLOT, *next);
        *next += 1;
    }
}

/// Harvests with the real harvester, into `taken`.
fn drain(harvester: &mut Harvester<Memory>, table: &SlotTable, taken: &mut Vec<u64>) {
    for harvested in harvester.harvest(table) {
        match harvested {
            Harvested::Page { slot: SLOT, offset } => taken.push(offset),
            other => panic!("torn entry: {other:?}"),
        }
    }
}

/// A vCPU pushes four pages through two entries, one thread harvests, one resets; `harvest` takes what is there.
fn go_round(harvest: impl Fn(&mut u32, &Memory, &mut Vec<u64>) + Copy + Send + Sync + 'static) {
    go_round_from(0, harvest);
}

fn go_round_from(
    start: u32,
    harvest: impl Fn(&mut u32, &Memory, &mut Vec<u64>) + Copy + Send + Sync + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        const PAGES: u64 = 4;
        let (producer, memory) = ends_at(start);
        let collector = thread::spawn({
            let memory = memory.clone();
            move || {
                let (mut index, mut taken) = (start, Vec::new());
                for _ in 0..2 {
                    harvest(&mut index, &memory, &mut taken);
                }
                (index, taken)
            }
        });
        let resetter = thread::spawn({
            let producer = producer.clone();
            move || (0..2).filter_map(|_| producer.reset_next()).collect::<Vec<_>>()
        });
        let mut next = 0;
        push_up_to(&producer, &mut next, PAGES);
        push_up_to(&producer, &mut next, PAGES);
        let (mut index, mut taken) = collector.join().unwrap();
        let mut reset = resetter.join().unwrap();
        while (reset.len() as u64) < PAGES {
            harvest(&mut index, &memory, &mut taken);
            reset.extend(std::iter::from_fn(|| producer.reset_next()));
            push_up_to(&producer, &mut next, PAGES);
        }
        assert!(taken.iter().copied().eq(0..PAGES), "{taken:?}");
        assert!(reset.iter().copied().eq((0..PAGES).map(|offset| (SLOT.raw(), offset))), "{reset:?}");
        assert_eq!(producer.used(), 0);
    });
}

/// A harvester with one ordering left to the caller.
fn harvest_by_hand(
    index: &mut u32,
    memory: &Memory,
    taken: &mut Vec<u64>,
    flags: impl Fn(&Entry) -> u32,
    mark: impl Fn(&Entry),
) {
    for _ in 0..memory.len() {
        let entry = &memory[*index as usize % memory.len()];
        if flags(entry) != FLAG_DIRTY {
            break;
        }
        let (slot, offset) = entry.payload();
        assert_eq!(slot, SLOT.raw(), "torn entry");
        taken.push(offset);
        mark(entry);
        *index = index.wrapping_add(1);
    }
}

#[test]
fn push_harvest_and_reset_at_once() {
    go_round(|index, memory, taken| {
        let mut harvester = Harvester::from_index(memory.clone(), *index).unwrap();
        drain(&mut harvester, &table(), taken);
        *index = harvester.index();
    });
}

/// The free-running counters pass the end of 32 bits on the way.
#[test]
fn counters_wrap_around() {
    go_round_from(u32::MAX - 1, |index, memory, taken| {
        let mut harvester = Harvester::from_index(memory.clone(), *index).unwrap();
        drain(&mut harvester, &table(), taken);
        *index = harvester.index();
    });
}

/// The copy that the controls weaken passes as long as it is whole.
#[test]
fn the_harvester_written_by_hand_is_sound() {
    go_round(|index, memory, taken| {
        harvest_by_hand(index, memory, taken, Entry::flags, |entry| entry.set_flags(FLAG_RESET));
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn weak_acquire_of_the_dirty_flag() {
    go_round(|index, memory, taken| {
        harvest_by_hand(index, memory, taken, Entry::flags_relaxed, |entry| entry.set_flags(FLAG_RESET));
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn weak_release_of_the_reset_flag() {
    go_round(|index, memory, taken| {
        harvest_by_hand(index, memory, taken, Entry::flags, |entry| entry.set_flags_relaxed(FLAG_RESET));
    });
}

/// The payload is read after the entry was handed back.
#[test]
#[should_panic(expected = "Causality violation")]
fn weak_order_of_mark_and_payload() {
    go_round(|index, memory, taken| {
        for _ in 0..memory.len() {
            let entry = &memory[*index as usize % memory.len()];
            if entry.flags() != FLAG_DIRTY {
                break;
            }
            entry.set_flags(FLAG_RESET);
            taken.push(entry.payload().1);
            *index += 1;
        }
    });
}

/// Looking for a gap while the vCPU pushes must not find one in a ring that never overflowed.
#[test]
fn no_gap_in_a_sound_ring() {
    loom::model(|| {
        let (producer, memory) = ends();
        let vcpu = thread::spawn({
            let producer = producer.clone();
            move || push_up_to(&producer, &mut 0, 2)
        });
        let harvester = Harvester::new(memory).unwrap();
        assert_eq!(harvester.gap(), 0);
        assert!(harvester.pending() <= 2);
        vcpu.join().unwrap();
        assert_eq!((harvester.gap(), harvester.pending()), (0, 2));
    });
}

/// A ring of four entries that was overrun by one, after it was drained and reset: the kernel counts an entry that is
/// nowhere, and pushes behind it.
fn overrun() -> (Arc<Producer<Memory>>, Harvester<Memory>) {
    let memory: Memory = ring::allocate(4).into();
    let producer = Arc::new(Producer::new(memory.clone(), 0).unwrap());
    let mut harvester = Harvester::new(memory).unwrap();
    for offset in 0..5 {
        producer.push(SLOT, offset);
    }
    drain(&mut harvester, &table(), &mut Vec::new());
    while producer.reset_next().is_some() {}
    assert_eq!(producer.used(), 1);
    (producer, harvester)
}

/// A gap that is looked for while the vCPU pushes behind it has no pushed entry in it, which would be handed back unread.
#[test]
fn a_gap_has_no_pushed_entry_in_it() {
    loom::model(|| {
        let (producer, harvester) = overrun();
        let vcpu = thread::spawn({
            let producer = producer.clone();
            move || {
                for offset in 10..12 {
                    producer.push(SLOT, offset);
                }
            }
        });
        let gap = harvester.gap();
        assert!(gap <= 1, "an entry that was pushed is taken for one that never was");
        vcpu.join().unwrap();
        assert_eq!(harvester.gap(), 1);
    });
}

/// A page whose bit is set already is changed and marked by `mark` while a collector takes the bit and copies it.
fn collect_while_marking(mark: impl Fn(&AtomicBitmap) + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let bitmap = Arc::new(AtomicBitmap::new(2));
        let page = Arc::new(AtomicU32::new(0));
        bitmap.set(0);
        let writer = thread::spawn({
            let (bitmap, page) = (bitmap.clone(), page.clone());
            move || {
                page.store(1, Ordering::Relaxed);
                mark(&bitmap);
            }
        });
        // A mark of another page in the same word, between the two.
        let other = thread::spawn({
            let bitmap = bitmap.clone();
            move || bitmap.set(1)
        });
        let mut copy = 0;
        let mut others = 0;
        let mut collect = || {
            let bits = bitmap.swap_word(0, 0);
            if bits & 1 != 0 {
                copy = page.load(Ordering::Relaxed);
            }
            others += bits >> 1;
        };
        collect();
        writer.join().unwrap();
        assert!(other.join().unwrap(), "the first mark of a page finds it clear");
        collect();
        assert_eq!(copy, 1, "a change of the page was missed");
        assert_eq!(others, 1);
        assert_eq!(bitmap.count(), 0);
    });
}

#[test]
fn a_mark_is_never_lost() {
    collect_while_marking(|bitmap| {
        bitmap.set(0);
    });
}

/// A range, and a collector that clears by mask, keep the same promise.
#[test]
fn a_mark_of_a_range_is_never_lost() {
    loom::model(|| {
        let bitmap = Arc::new(AtomicBitmap::new(2));
        let page = Arc::new(AtomicU32::new(0));
        bitmap.fill();
        let writer = thread::spawn({
            let (bitmap, page) = (bitmap.clone(), page.clone());
            move || {
                page.store(1, Ordering::Relaxed);
                bitmap.set_range(0..2);
            }
        });
        let mut copy = 0;
        let mut collect = || {
            if bitmap.clear_bits(0, 1) != 0 {
                copy = page.load(Ordering::Relaxed);
            }
        };
        collect();
        writer.join().unwrap();
        collect();
        assert_eq!(copy, 1);
        assert_eq!(bitmap.load_word(0), 2);
    });
}

/// Looking before setting saves a write and loses a page.
#[test]
#[should_panic(expected = "a change of the page was missed")]
fn weak_mark_that_looks_first() {
    collect_while_marking(|bitmap| {
        if !bitmap.test(0) {
            bitmap.set(0);
        }
    });
}

/// Two epochs over one bitmap while a writer writes a page twice: each swaps the bits out and copies what they name; the
/// first fails, and `roll_back` says what the second then knows of its pages.
fn swap_and_roll_back(roll_back: impl Fn(u64) -> u64 + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let bitmap = Arc::new(AtomicBitmap::new(1));
        let page = Arc::new(AtomicU32::new(0));
        let writer = thread::spawn({
            let (bitmap, page) = (bitmap.clone(), page.clone());
            move || {
                for value in 1..=2 {
                    page.store(value, Ordering::Relaxed);
                    bitmap.set(0);
                }
            }
        });
        // The image that counts: what a failed epoch has copied is not in it.
        let mut durable = 0;
        let mut epoch = |carried: u64, commit: bool| {
            let pages = carried | bitmap.swap_word(0, 0);
            let copy = (pages != 0).then(|| page.load(Ordering::Relaxed));
            if commit {
                durable = copy.unwrap_or(durable)
            }
            pages
        };
        let carried = roll_back(epoch(0, false));
        epoch(carried, true);
        writer.join().unwrap();
        epoch(0, true);
        assert_eq!(durable, 2, "a failed epoch took a page along");
        assert_eq!(bitmap.count(), 0);
    });
}

#[test]
fn an_epoch_that_is_rolled_back_loses_nothing() {
    swap_and_roll_back(|pages| pages);
}

#[test]
#[should_panic(expected = "a failed epoch took a page along")]
fn weak_rollback_that_forgets() {
    swap_and_roll_back(|_| 0);
}

/// A vCPU fills its ring, hands it over to the collector and waits, while it is told to stop; then the ring is harvested
/// for the last time.
#[test]
fn a_vcpu_with_a_full_ring_can_be_stopped() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        const PAGES: u64 = 3;
        let (producer, memory) = ends();
        let harvester = Arc::new(Mutex::new((Harvester::new(memory).unwrap(), Vec::new())));
        // What the vCPU and whoever stops it tell each other: the wish, a full ring, the last word.
        let gate = Arc::new((Mutex::new((false, false, false)), Condvar::new()));
        let collect = {
            let producer = producer.clone();
            move |ends: &mut (Harvester<Memory>, Vec<u64>)| {
                let (harvester, taken) = ends;
                drain(harvester, &table(), taken);
                while producer.reset_next().is_some() {}
            }
        };
        let vcpu = thread::spawn({
            let (producer, gate) = (producer.clone(), gate.clone());
            move || {
                let mut next = 0;
                loop {
                    push_up_to(&producer, &mut next, PAGES);
                    let (state, changed) = &*gate;
                    let mut state = state.lock().unwrap();
                    if next == PAGES || state.0 {
                        state.2 = true;
                        changed.notify_all();
                        return next;
                    }
                    state.1 = true;
                    changed.notify_all();
                    while state.1 {
                        state = changed.wait(state).unwrap();
                    }
                }
            }
        });
        let collector = thread::spawn({
            let (harvester, gate, collect) = (harvester.clone(), gate.clone(), collect.clone());
            move || {
                let (state, changed) = &*gate;
                loop {
                    let mut state = state.lock().unwrap();
                    while !state.1 && !state.2 {
                        state = changed.wait(state).unwrap();
                    }
                    if state.2 {
                        return;
                    }
                    drop(state);
                    collect(&mut harvester.lock().unwrap());
                    gate.0.lock().unwrap().1 = false;
                    changed.notify_all();
                }
            }
        });
        {
            let (state, changed) = &*gate;
            let mut state = state.lock().unwrap();
            state.0 = true;
            while !state.2 {
                state = changed.wait(state).unwrap();
            }
        }
        let pushed = vcpu.join().unwrap();
        collector.join().unwrap();
        let mut ends = harvester.lock().unwrap();
        collect(&mut ends);
        assert!(ends.1.iter().copied().eq(0..pushed), "{:?} of {pushed}", ends.1);
        assert_eq!(producer.used(), 0);
    });
}
