//! `DirtyPages`: sets kept apart by slot, indices checked where they enter.

#![allow(clippy::unwrap_used, reason = "small numbers; a panic is how a test fails")]

use ringmark_dirty::{DirtyPages, Gfn, Memslot, OutOfRange, SlotId, SlotTable};

const LOW: SlotId = SlotId::new(0, 3);
const HIGH: SlotId = SlotId::new(0, 7);
const SMM: SlotId = SlotId::new(1, 3);

fn table() -> SlotTable {
    SlotTable::new([
        Memslot { id: HIGH, base: Gfn(0x10_0000), npages: 1000 },
        Memslot { id: LOW, base: Gfn(0), npages: 640 },
        Memslot { id: SMM, base: Gfn(0), npages: 1 },
    ])
    .unwrap()
}

#[test]
fn keeps_slots_apart() {
    let mut pages = DirtyPages::new(&table());
    assert!(pages.is_empty());
    assert_eq!(pages.insert(LOW, 5), Ok(true));
    assert_eq!(pages.insert(LOW, 5), Ok(false));
    assert_eq!(pages.insert(SMM, 0), Ok(true));
    assert_eq!(pages.insert(HIGH, 999), Ok(true));
    assert_eq!(pages.insert(HIGH, 998), Ok(true));
    assert!(pages.contains(LOW, 5) && !pages.contains(HIGH, 5) && !pages.contains(SMM, 5));
    assert!(!pages.contains(SlotId::new(0, 4), 5));
    assert_eq!(pages.len(), 4);
    assert_eq!(pages.iter().collect::<Vec<_>>(), [(LOW, 5), (HIGH, 998), (HIGH, 999), (SMM, 0)]);
    assert_eq!(pages.runs().collect::<Vec<_>>(), [(LOW, 5..6), (HIGH, 998..1000), (SMM, 0..1)]);
    assert_eq!(
        pages.sets().map(|(id, set)| (id, set.len())).collect::<Vec<_>>(),
        [(LOW, 1), (HIGH, 2), (SMM, 1)]
    );
}

#[test]
fn refuses_what_no_slot_holds() {
    let mut pages = DirtyPages::new(&table());
    let absent = SlotId::new(2, 7);
    assert_eq!(pages.insert(absent, 0), Err(OutOfRange::UnknownSlot(absent)));
    assert_eq!(pages.insert_slot(absent), Err(OutOfRange::UnknownSlot(absent)));
    assert_eq!(pages.insert(LOW, 640), Err(OutOfRange::PastEnd { slot: LOW, offset: 640, npages: 640 }));
    assert_eq!(
        pages.insert(LOW, u64::MAX).unwrap_err().to_string(),
        "page 18446744073709551615 lies past the end of memslot 3, which has 640 pages"
    );
    assert!(pages.is_empty());
}

#[test]
fn merges_and_moves() {
    let (mut a, mut b) = (DirtyPages::new(&table()), DirtyPages::new(&table()));
    a.insert(LOW, 1).unwrap();
    assert_eq!(b.insert_slot(LOW), Ok(640));
    b.insert(HIGH, 2).unwrap();
    assert_eq!(a.union_with(&b), 640);
    assert_eq!(a, b);
    let taken = a.take();
    assert!(a.is_empty());
    assert_eq!(taken, b);
    assert_eq!(b.subtract(&taken), 641);
    assert!(b.is_empty());
    b.insert_all();
    assert_eq!(b.len(), table().total_pages());
    assert_eq!(b.slot_mut(SMM).map(|set| set.take().len()), Some(1));
    assert_eq!(b.slot(SMM).map(|set| set.len()), Some(0));
}

#[test]
#[should_panic(expected = "dirty pages of different memslots")]
fn pages_of_other_slots_do_not_mix() {
    let other = SlotTable::new([Memslot { id: LOW, base: Gfn(0), npages: 640 }]).unwrap();
    DirtyPages::new(&table()).union_with(&DirtyPages::new(&other));
}
