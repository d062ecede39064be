//! Random pushes, harvests and resets, against queues.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{SLOT, ring, table};
use crate::{Gfn, Harvested, Memslot, SlotId, SlotTable};

#[derive(Clone, Debug)]
enum Op {
    Push(u32),
    Harvest(usize),
    Reset(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1u32..12).prop_map(Op::Push),
        prop_oneof![0usize..12, Just(usize::MAX)].prop_map(Op::Harvest),
        prop_oneof![0usize..12, Just(usize::MAX)].prop_map(Op::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_two_queues_do(
        shift in 0u32..6,
        reserve in 0u32..8,
        start in prop_oneof![Just(0u32), (u32::MAX - 100)..=u32::MAX, any::<u32>()],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let size = 1u32 << shift;
        let reserve = reserve.min(size - 1);
        let (producer, mut harvester) = ring(size, reserve, start);
        let table = table();
        let (mut dirty, mut harvested) = (VecDeque::new(), VecDeque::new());
        let mut next = 0u64;
        for op in ops {
            match op {
                Op::Push(count) => for _ in 0..count {
                    let used = (dirty.len() + harvested.len()) as u32;
                    if used == size {
                        break;
                    }
                    let pushed = producer.push(SLOT, next);
                    dirty.push_back(next);
                    next += 1;
                    prop_assert_eq!(pushed.used_before, used);
                    prop_assert_eq!(pushed.soft_full, used + 1 >= size - reserve);
                    prop_assert!(!pushed.overwrote);
                },
                Op::Harvest(most) => {
                    prop_assert_eq!(harvester.pending() as usize, dirty.len());
                    let before = harvester.index();
                    let full = dirty.len() + harvested.len() == size as usize;
                    let mut drain = harvester.harvest(&table);
                    let taken: Vec<_> = drain.by_ref().take(most).collect();
                    let expected: Vec<u64> = dirty.drain(..most.min(dirty.len())).collect();
                    let ended = most > expected.len();
                    prop_assert_eq!(drain.taken() as usize, expected.len());
                    if ended {
                        prop_assert_eq!(drain.overflow(), full, "full ring: {}", full);
                    }
                    let pages: Vec<_> = expected.iter().map(|&offset| Harvested::Page { slot: SLOT, offset }).collect();
                    prop_assert_eq!(taken, pages);
                    prop_assert_eq!(harvester.index(), before.wrapping_add(expected.len() as u32));
                    harvested.extend(expected);
                }
                Op::Reset(most) => {
                    let reset: Vec<_> = core::iter::from_fn(|| producer.reset_next()).take(most).collect();
                    let expected: Vec<_> = harvested
                        .drain(..most.min(harvested.len()))
                        .map(|offset| (SLOT.raw(), offset))
                        .collect();
                    prop_assert_eq!(reset, expected);
                }
            }
            prop_assert_eq!(producer.used() as usize, dirty.len() + harvested.len());
            prop_assert_eq!(producer.is_soft_full(), producer.used() >= size - reserve);
            prop_assert_eq!(harvester.gap(), 0);
        }
    }

    #[test]
    fn every_entry_is_held_against_the_table(
        entries in prop::collection::vec(
            (prop_oneof![Just(SLOT.raw()), any::<u32>()], prop_oneof![0u64..2048, any::<u64>()]),
            1..60,
        )
    ) {
        let slots = [(SLOT, 1000), (SlotId::new(1, 2), 64)];
        let table = slots.map(|(id, npages)| Memslot { id, base: Gfn(0), npages });
        let table = SlotTable::new(table).unwrap();
        let (producer, mut harvester) = ring(64, 0, 0);
        for &(slot, offset) in &entries {
            producer.push(SlotId::from_raw(slot), offset);
        }
        let taken: Vec<_> = harvester.harvest(&table).collect();
        let expected: Vec<_> = entries.iter().map(|&(slot, offset)| {
            let slot = SlotId::from_raw(slot);
            match slots.iter().find(|(id, _)| *id == slot) {
                None => Harvested::UnknownSlot { slot, offset },
                Some(&(_, npages)) if offset >= npages => Harvested::PastEnd { slot, offset, npages },
                Some(_) => Harvested::Page { slot, offset },
            }
        }).collect();
        prop_assert_eq!(taken, expected);
        // Whatever they named, all of them went back.
        prop_assert_eq!(super::reset_all(&producer), entries);
    }
}
