//! The table of memslots: what it refuses, and lookups against a walk.

#![allow(clippy::cast_possible_truncation, reason = "small numbers; a panic is how a test fails")]

use proptest::prelude::*;
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable, SlotTableError};

fn slot(as_id: u16, id: u16, base: u64, npages: u64) -> Memslot {
    Memslot { id: SlotId::new(as_id, id), base: Gfn(base), npages }
}

#[test]
fn refuses_in_order() {
    let id = |id| SlotId::new(0, id);
    let refused = |slots: &[Memslot]| SlotTable::new(slots.iter().copied()).unwrap_err();
    assert_eq!(refused(&[slot(0, 1, 0, 0)]), SlotTableError::Size(id(1), 0));
    let too_large = Memslot::MAX_PAGES + 1;
    assert_eq!(refused(&[slot(0, 1, 0, too_large)]), SlotTableError::Size(id(1), too_large));
    assert_eq!(refused(&[slot(0, 1, u64::MAX, 1)]), SlotTableError::Wraps(id(1)));
    assert_eq!(refused(&[slot(0, 1, 0, 9), slot(0, 2, 8, 9)]), SlotTableError::Overlap(id(1), id(2)));
    assert_eq!(refused(&[slot(0, 1, 0, 9), slot(0, 1, 20, 9)]), SlotTableError::Duplicate(id(1)));
    // A name listed twice comes before an overlap, whether or not it is the two of that name that overlap.
    assert_eq!(refused(&[slot(0, 1, 0, 9), slot(0, 1, 8, 9)]), SlotTableError::Duplicate(id(1)));
    let mixed = [slot(0, 2, 0, 9), slot(0, 1, 8, 9), slot(0, 3, 100, 1), slot(0, 3, 200, 1)];
    assert_eq!(refused(&mixed), SlotTableError::Duplicate(id(3)));
    assert_eq!(
        refused(&[slot(0, 1, 0, too_large)]).to_string(),
        "memslot 1 has 2147483648 pages; a memslot has 1 to 2147483647"
    );
}

#[test]
fn address_spaces_may_overlap() {
    let table = SlotTable::new([slot(1, 0, 0, 4), slot(0, 0, 0, 8)]).unwrap();
    assert_eq!(table.find(1, Gfn(3)).map(|(s, o)| (s.id, o)), Some((SlotId::new(1, 0), 3)));
    assert_eq!(table.find(0, Gfn(3)).map(|(s, o)| (s.id, o)), Some((SlotId::new(0, 0), 3)));
    assert_eq!(table.find(1, Gfn(4)), None);
    assert_eq!(table.find(2, Gfn(3)), None);
    assert_eq!((table.len(), table.total_pages(), table.is_empty()), (2, 12, false));
}

#[test]
fn frames_of_a_slot() {
    let s = slot(0, 0, 100, 10);
    assert_eq!((s.gfn(0), s.gfn(9), s.gfn(10)), (Some(Gfn(100)), Some(Gfn(109)), None));
    assert_eq!((s.offset(Gfn(99)), s.offset(Gfn(100)), s.offset(Gfn(110))), (None, Some(0), None));
    assert_eq!(slot(0, 0, u64::MAX, 5).gfn(1), None);
    assert_eq!((slot(0, 0, 0, 64).bitmap_words(), slot(0, 0, 0, 65).bitmap_words()), (1, 2));
    assert_eq!(SlotId::new(1, 7).raw(), 0x1_0007);
    assert_eq!(SlotId::from_raw(0x1_0007).to_string(), "1:7");
    assert_eq!(SlotId::new(0, 7).to_string(), "7");
}

#[test]
fn page_sizes() {
    assert_eq!(PageSize::new(0), None);
    assert_eq!(PageSize::new(256), None);
    assert_eq!(PageSize::new(12288), None);
    assert_eq!(PageSize::new(1 << 31), None);
    for (bytes, text) in [(512, "512 B"), (4096, "4 KiB"), (65536, "64 KiB"), (2 << 20, "2 MiB")] {
        let size = PageSize::new(bytes).unwrap();
        assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, text));
        assert_eq!(size.address(size.gfn(bytes * 7 + 1)), Some(bytes * 7));
        assert_eq!(size.address(Gfn(u64::MAX)), None);
        assert_eq!(size.pages_in(bytes * 3 - 1), 2);
        assert!(size.is_aligned(bytes * 3) && !size.is_aligned(bytes * 3 + 8));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_a_walk_finds(
        steps in prop::collection::vec((0u16..2, 0u64..4, 1u64..5), 0..12),
        order in any::<prop::sample::Index>(),
    ) {
        let mut next = [0u64; 2];
        let mut slots: Vec<Memslot> = Vec::new();
        for (number, &(as_id, hole, npages)) in steps.iter().enumerate() {
            let base = next[as_id as usize] + hole;
            next[as_id as usize] = base + npages;
            // Names run against the order of places.
            slots.push(slot(as_id, 100 - number as u16, base, npages));
        }
        if !slots.is_empty() {
            let by = order.index(slots.len());
            slots.rotate_left(by);
        }
        let table = SlotTable::new(slots.iter().copied()).unwrap();
        for as_id in 0..3 {
            for gfn in (0..100).map(Gfn) {
                let walk = slots.iter().filter(|s| s.id.as_id() == as_id).find_map(|s| s.offset(gfn).map(|o| (s, o)));
                prop_assert_eq!(table.find(as_id, gfn), walk);
            }
        }
        for s in &slots {
            prop_assert_eq!(table.get(s.id), Some(s));
        }
        prop_assert_eq!(table.get(SlotId::new(0, 1)), None);
        prop_assert!(table.iter().is_sorted_by_key(|s| s.id));
    }

    #[test]
    fn overlaps_are_refused_exactly_when_frames_are_shared(
        places in prop::collection::vec((0u64..30, 1u64..6), 1..6)
    ) {
        let slots: Vec<Memslot> = places.iter().zip(0..).map(|(&(base, n), id)| slot(0, id, base, n)).collect();
        let shared = (0..40).any(|g| slots.iter().filter(|s| s.offset(Gfn(g)).is_some()).count() > 1);
        prop_assert_eq!(SlotTable::new(slots).is_err(), shared);
    }
}
