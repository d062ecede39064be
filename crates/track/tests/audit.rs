//! The audit finds what changed unreported, names it, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::Mutex;

use proptest::prelude::*;
use ringmark_dirty::{DirtyPages, Gfn, Memslot, PageSize, SlotId, SlotTable};
use ringmark_track::{Audit, Memory, MemoryError};
use support::{page_size, slot, table};

/// Pages in vectors, one after another.
struct Pages(SlotTable, Mutex<Vec<Vec<Vec<u8>>>>);

impl Pages {
    fn new(slots: &SlotTable) -> Self {
        let page = vec![0; usize::try_from(page_size().bytes()).unwrap()];
        let memory =
            slots.iter().map(|slot| vec![page.clone(); usize::try_from(slot.npages).unwrap()]).collect();
        Self(slots.clone(), Mutex::new(memory))
    }

    fn poke(&self, slot: u16, offset: u64, byte: usize, value: u8) {
        self.1.lock().unwrap()[usize::from(slot)][usize::try_from(offset).unwrap()][byte] = value;
    }
}

impl Memory for Pages {
    fn page_size(&self) -> PageSize {
        page_size()
    }

    fn read(&self, slot: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
        let memory = self.1.lock().unwrap();
        let found =
            memory.get(usize::from(slot.id())).and_then(|pages| pages.get(usize::try_from(offset).unwrap()));
        let found = found.ok_or_else(|| MemoryError { slot, offset, error: "unmapped".into() })?;
        page.copy_from_slice(found);
        Ok(())
    }
}

#[test]
fn an_escape_is_named_once_by_slot_gfn_and_address() {
    let slots = SlotTable::new([
        Memslot { id: slot(0), base: Gfn(0), npages: 3000 },
        Memslot { id: slot(1), base: Gfn(0x10_0000), npages: 700 },
    ])
    .unwrap();
    let memory = Pages::new(&slots);
    let mut audit = Audit::begin(&slots, &memory).unwrap();
    memory.poke(1, 0x20, 4095, 1);
    memory.poke(0, 2999, 0, 1);
    memory.poke(0, 17, 0, 1);
    let mut reported = DirtyPages::new(&slots);
    reported.insert(slot(0), 17).unwrap();
    reported.insert(slot(0), 18).unwrap();

    let report = audit.observe(&memory, &reported).unwrap();
    assert_eq!((report.pages, report.bytes), (3700, 3700 * 4096));
    let names: Vec<_> = report.escapes.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "page 2999 of memslot 0 (gfn 0xbb7, guest address 0xbb7000) changed and no source reported it",
            "page 32 of memslot 1 (gfn 0x100020, guest address 0x100020000) changed and no source reported it",
        ]
    );
    assert_eq!(audit.observe(&memory, &DirtyPages::new(&slots)).unwrap().escapes, []);
}

#[test]
fn unreadable_memory_is_an_error() {
    let memory = Pages::new(&table(&[10]));
    let error = Audit::begin(&table(&[10, 5]), &memory).unwrap_err();
    assert_eq!(error.to_string(), "page 0 of memslot 1 cannot be read: unmapped");
    assert_eq!(memory.0.total_pages(), 10);
}

proptest! {
    #[test]
    fn escapes_are_exactly_the_changed_and_unreported(
        changes in prop::collection::vec((0u16..2, 0u64..90, 0usize..4096, 1u8..), 0..30),
        reports in prop::collection::vec((0u16..2, 0u64..90), 0..30),
    ) {
        let slots = table(&[90, 90]);
        let memory = Pages::new(&slots);
        let mut audit = Audit::begin(&slots, &memory).unwrap();
        let mut reported = DirtyPages::new(&slots);
        for &(id, page) in &reports {
            reported.insert(slot(id), page).unwrap();
        }
        let mut expected = std::collections::BTreeSet::new();
        for &(id, page, byte, value) in &changes {
            memory.poke(id, page, byte, value);
            if !reported.contains(slot(id), page) {
                expected.insert((id, page));
            }
        }
        let found = audit.observe(&memory, &reported).unwrap().escapes;
        prop_assert_eq!(found.iter().map(|e| (e.slot.id(), e.offset)).collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }
}
