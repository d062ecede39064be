//! Rings that are pushed past their size: noticed whenever something was lost, and mended.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{SLOT, reset_all, ring, table};
use crate::{FLAG_DIRTY, FLAG_RESET, Harvested};

fn offsets(taken: impl IntoIterator<Item = Harvested>) -> Vec<u64> {
    taken
        .into_iter()
        .map(|h| match h {
            Harvested::Page { offset, .. } => offset,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// A ring of 8 overrun by 3 with nothing harvested before.
#[test]
fn a_gap_ahead() {
    let (producer, mut harvester) = ring(8, 2, 0);
    let table = table();
    for offset in 0..11 {
        assert_eq!(producer.push(SLOT, offset).overwrote, offset >= 8);
    }
    let mut drain = harvester.harvest(&table);
    assert_eq!(offsets(drain.by_ref()), [8, 9, 10, 3, 4, 5, 6, 7]);
    assert!(drain.overflow());
    assert_eq!(reset_all(&producer).len(), 8);
    // Nothing is outstanding, and yet the kernel counts 3.
    assert_eq!((producer.used(), harvester.pending(), harvester.gap()), (3, 0, 0));
    producer.push(SLOT, 50);
    assert_eq!((harvester.pending(), harvester.gap()), (0, 3));
    assert_eq!(harvester.harvest(&table).count(), 0);
    let mut counts = vec![];
    let marked = harvester.resync(|| {
        counts.push(reset_all(&producer).len());
        0
    });
    assert_eq!((marked, counts), (3, vec![0, 3]));
    assert_eq!(offsets(harvester.harvest(&table)), [50]);
    assert_eq!(reset_all(&producer), [(SLOT.raw(), 50)]);
    assert_eq!((producer.used(), producer.dirty_index()), (0, harvester.index()));
}

#[test]
fn only_an_empty_entry_is_handed_back_as_empty() {
    let (producer, mut harvester) = ring(8, 2, 0);
    producer.push(SLOT, 7);
    let entries = producer.memory();
    assert!(!entries[0].hand_back_empty());
    assert!(entries[1].hand_back_empty());
    assert_eq!((entries[0].flags(), entries[1].flags()), (FLAG_DIRTY, FLAG_RESET));
    assert_eq!(offsets(harvester.harvest(&table())), [7]);
}

/// A ring of 8 overrun by its whole size: the vCPU cannot push, and nothing shows where it stands.
#[test]
fn nothing_but_a_gap() {
    let (producer, mut harvester) = ring(8, 2, 0);
    let table = table();
    for offset in 0..16 {
        producer.push(SLOT, offset);
    }
    assert_eq!(harvester.harvest(&table).count(), 8);
    assert_eq!(reset_all(&producer).len(), 8);
    let mut reset = || reset_all(&producer).len() as u32;
    assert_eq!((producer.used(), harvester.resync(&mut reset)), (8, 0));
    for exits in 1.. {
        assert_eq!(harvester.relieve(&mut reset), 1);
        if !producer.is_soft_full() {
            assert_eq!(exits, 3);
            break;
        }
    }
    producer.push(SLOT, 16);
    assert_eq!(harvester.relieve(&mut reset), 0, "there is something to harvest");
    assert_eq!(harvester.resync(&mut reset), 5);
    assert_eq!(offsets(harvester.harvest(&table)), [16]);
    reset();
    assert_eq!((producer.used(), harvester.index()), (0, producer.dirty_index()));
}

/// A ring of 8 overrun by 2 after 5 entries were harvested and before they were reset.
#[test]
fn a_gap_behind() {
    let (producer, mut harvester) = ring(8, 2, 0);
    let table = table();
    let push = |offsets: core::ops::Range<u64>| {
        for offset in offsets {
            producer.push(SLOT, offset);
        }
    };
    push(0..5);
    assert!(!{
        let mut drain = harvester.harvest(&table);
        assert_eq!(drain.by_ref().count(), 5);
        drain.overflow()
    });
    push(5..10);
    let mut drain = harvester.harvest(&table);
    assert_eq!(offsets(drain.by_ref()), [5, 6, 7, 8, 9]);
    assert!(drain.overflow(), "two entries lost their reset");
    assert_eq!(reset_all(&producer).len(), 8);
    assert_eq!((producer.used(), harvester.index()), (2, producer.dirty_index()));
    // The kernel's reset now waits for marks that nobody sets.
    push(10..11);
    assert_eq!(offsets(harvester.harvest(&table)), [10]);
    assert_eq!(reset_all(&producer), []);
    let mut counts = vec![];
    let marked = harvester.resync(|| {
        counts.push(reset_all(&producer).len());
        0
    });
    assert_eq!((marked, counts), (2, vec![0, 0, 3]));
    assert_eq!((producer.used(), harvester.index()), (0, producer.dirty_index()));
}

#[test]
fn a_sound_ring_is_left_alone() {
    let (producer, mut harvester) = ring(8, 2, 0);
    let table = table();
    for offset in 0..100 {
        producer.push(SLOT, offset);
        let before = producer.used();
        assert_eq!(harvester.resync(|| reset_all(&producer).len() as u32), 0);
        assert_eq!((producer.used(), harvester.pending()), (before, before));
        if offset % 5 == 4 {
            assert_eq!(harvester.harvest(&table).count(), 5);
            // With entries harvested and not yet reset, too.
            assert_eq!(harvester.resync(|| reset_all(&producer).len() as u32), 0);
            assert_eq!(producer.used(), 0);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push(u32),
    Harvest,
    HarvestSome(usize),
    Reset,
}

/// What an entry still stood for when it was overwritten.
#[derive(Clone, Copy, PartialEq)]
enum Owed {
    Nothing,
    Harvest,
    Reset,
}

fn op(size: u32) -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..size * 3 / 2 + 2).prop_map(Op::Push),
        2 => Just(Op::Harvest),
        1 => (0..size as usize).prop_map(Op::HarvestSome),
        2 => Just(Op::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_loss_passes_unnoticed_and_every_ring_is_mended(
        (size, start, ops) in (0u32..6, any::<u32>()).prop_flat_map(|(shift, start)| {
            (Just(1u32 << shift), Just(start), prop::collection::vec(op(1 << shift), 1..40))
        })
    ) {
        let (producer, mut harvester) = ring(size, 0, start);
        let table = table();
        let at = |index: u32| (index % size) as usize;
        let mut owed = vec![Owed::Nothing; size as usize];
        let (mut lost, mut was_full, mut overflowed) = (false, false, false);
        let mut next = 0u64;
        for op in ops {
            match op {
                Op::Push(count) => for _ in 0..count {
                    let place = at(producer.dirty_index());
                    lost |= owed[place] != Owed::Nothing;
                    owed[place] = Owed::Harvest;
                    was_full |= producer.push(SLOT, next).used_before + 1 >= size;
                    next += 1;
                },
                Op::Harvest | Op::HarvestSome(_) | Op::Reset => loop {
                    let most = if let Op::HarvestSome(most) = op { most } else { usize::MAX };
                    let from = harvester.index();
                    let mut drain = harvester.harvest(&table);
                    let taken = drain.by_ref().take(most).count() as u32;
                    prop_assert!(taken <= size);
                    (0..taken).for_each(|n| owed[at(from.wrapping_add(n))] = Owed::Reset);
                    if drain.overflow() {
                        prop_assert!(was_full, "an overflow of a ring that was never full");
                        (overflowed, lost) = (true, false);
                    } else if most == usize::MAX && !overflowed {
                        prop_assert!(!lost, "an entry was overwritten and nobody noticed");
                    }
                    let Op::Reset = op else { break };
                    let mut reset = || {
                        let before = producer.reset_index();
                        let count = reset_all(&producer).len() as u32;
                        (0..count).for_each(|n| owed[at(before.wrapping_add(n))] = Owed::Nothing);
                        count
                    };
                    reset();
                    if !overflowed || harvester.resync(reset) == 0 {
                        prop_assert!(!lost, "an entry was overwritten and nobody noticed");
                        break;
                    }
                },
            }
            prop_assert!(producer.used().cast_signed() >= 0, "an entry was reset that was never pushed");
        }
        // A vCPU that goes on as a vCPU should, and a collector that knows that the ring has overflowed.
        for _ in 0..producer.used() + 4 * size {
            let mut reset = || reset_all(&producer).len() as u32;
            let taken = harvester.harvest(&table).count();
            reset();
            let seen = harvester.resync(&mut reset);
            if producer.is_soft_full() {
                if seen == 0 && taken == 0 {
                    prop_assert!(harvester.relieve(reset) > 0);
                }
            } else {
                producer.push(SLOT, next);
                next += 1;
            }
            prop_assert!(producer.used().cast_signed() >= 0, "an entry was reset that was never pushed");
        }
        let taken = offsets(harvester.harvest(&table));
        prop_assert_eq!(taken.last(), Some(&(next - 1)));
        reset_all(&producer);
        prop_assert_eq!(producer.used(), 0);
        prop_assert_eq!(at(producer.dirty_index()), at(harvester.index()));
    }
}
