//! Single rules: lengths, limits, and what the kernel does with marks that should not be there.

use alloc::string::ToString;
use alloc::sync::Arc;

use super::{SLOT, reset_all, ring, table};
use crate::ring::{Producer, RingError, RingMemory, allocate};
use crate::{FLAG_DIRTY, FLAG_RESET, Harvested, Harvester};

#[test]
fn lengths_are_powers_of_two() {
    for entries in [0, 3, 6, 1000] {
        let expected = RingError::Length(entries as usize);
        assert_eq!(Producer::new(allocate(entries), 0).err(), Some(expected));
        assert_eq!(Harvester::new(allocate(entries)).err(), Some(expected));
    }
    assert_eq!(
        RingError::Length(6).to_string(),
        "a ring of 6 entries; the number of entries must be a power of two, at most 2147483648"
    );
}

#[test]
fn a_reserve_leaves_room() {
    assert_eq!(Producer::new(allocate(64), 64).err(), Some(RingError::Reserve { size: 64, reserve: 64 }));
    let ring = Producer::new(allocate(256), 64).unwrap();
    assert_eq!((ring.size(), ring.soft_limit()), (256, 192));
}

#[test]
fn soft_full_counts_what_is_not_reset() {
    let (producer, mut harvester) = ring(8, 3, 0);
    let table = table();
    for offset in 0..4 {
        assert!(!producer.push(SLOT, offset).soft_full);
    }
    assert!(producer.push(SLOT, 4).soft_full);
    assert_eq!(harvester.harvest(&table).count(), 5);
    assert!(producer.is_soft_full(), "harvesting alone makes no room");
    assert_eq!(reset_all(&producer).len(), 5);
    assert!(!producer.is_soft_full());
}

#[test]
fn a_mark_out_of_order_waits_for_the_one_before() {
    let (producer, harvester) = ring(8, 0, 0);
    for offset in 0..3 {
        producer.push(SLOT, offset);
    }
    harvester.memory()[1].set_flags(FLAG_RESET);
    assert_eq!(reset_all(&producer), []);
    // The kernel looks at the second bit alone.
    harvester.memory()[0].set_flags(FLAG_RESET | FLAG_DIRTY);
    assert_eq!(reset_all(&producer), [(SLOT.raw(), 0), (SLOT.raw(), 1)]);
    assert_eq!(harvester.memory()[0].flags(), 0);
}

#[test]
fn a_dropped_flag_blocks_the_ring() {
    let (producer, harvester) = ring(8, 0, 0);
    producer.push(SLOT, 0);
    producer.push(SLOT, 1);
    harvester.memory()[0].set_flags(0);
    harvester.memory()[1].set_flags(FLAG_RESET);
    assert_eq!(reset_all(&producer), []);
}

#[test]
fn a_mark_on_an_empty_entry_shifts_the_indices() {
    let (producer, harvester) = ring(8, 0, 0);
    harvester.memory()[0].set_flags(FLAG_RESET);
    assert_eq!(reset_all(&producer).len(), 1);
    assert_eq!(producer.used(), u32::MAX);
    assert!(producer.push(SLOT, 0).overwrote);
}

#[test]
fn a_harvester_is_handed_over_by_its_index() {
    let (producer, mut first) = ring(4, 0, 0);
    let table = table();
    for offset in 0..3 {
        producer.push(SLOT, offset);
    }
    assert_eq!(first.harvest(&table).take(2).count(), 2);
    let mut second = Harvester::from_index(Arc::clone(first.memory()), first.index()).unwrap();
    assert!(second.harvest(&table).eq([Harvested::Page { slot: SLOT, offset: 2 }]));
}

#[test]
fn a_drain_that_has_ended_stays_ended() {
    let (producer, mut harvester) = ring(4, 0, 0);
    let table = table();
    let mut drain = harvester.harvest(&table);
    assert_eq!(drain.next(), None);
    producer.push(SLOT, 0);
    assert_eq!(drain.next(), None);
    assert_eq!(harvester.harvest(&table).count(), 1);
}

#[test]
fn memory_may_be_borrowed_boxed_or_shared() {
    fn entries(memory: impl RingMemory) -> usize {
        memory.entries().len()
    }
    let shared: Arc<dyn RingMemory> = Arc::new(allocate(8));
    assert_eq!((entries(&*allocate(2)), entries(allocate(4)), entries(shared)), (2, 4, 8));
}
