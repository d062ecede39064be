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
use ringmark_track::{Audit, AuditRate, Memory, MemoryError};
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
    assert_eq!((report.compared, report.pages, report.bytes), (3698, 3700, 3700 * 4096));
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

/// An epoch whose cut is not audited hands its pages on: they are no escapes at the next audit, and what escaped then is.
#[test]
fn an_epoch_that_is_not_audited_is_remembered() {
    let slots = table(&[100]);
    let memory = Pages::new(&slots);
    let mut audit = Audit::begin(&slots, &memory).unwrap();
    memory.poke(0, 5, 0, 1);
    memory.poke(0, 6, 0, 1);
    let mut reported = DirtyPages::new(&slots);
    reported.insert(slot(0), 5).unwrap();
    audit.pass(&reported);
    let nothing = DirtyPages::new(&slots);
    let escapes = audit.observe(&memory, &nothing).unwrap().escapes;
    assert_eq!(escapes.iter().map(|escape| escape.offset).collect::<Vec<_>>(), [6]);
    memory.poke(0, 5, 0, 2);
    let escapes = audit.observe(&memory, &nothing).unwrap().escapes;
    assert_eq!(escapes.iter().map(|escape| escape.offset).collect::<Vec<_>>(), [5], "excused once");
}

#[test]
fn a_change_of_the_rate_leaves_no_gap() {
    let slots = table(&[400, 100]);
    let memory = Pages::new(&slots);
    let nothing = DirtyPages::new(&slots);
    let mut audit = Audit::begin(&slots, &memory).unwrap();
    let digest = audit.digest().unwrap();

    // All pages are watched until the next observation, whatever the rate is from there on.
    audit.set_rate("20%".parse().unwrap());
    memory.poke(1, 99, 0, 1);
    let report = audit.observe(&memory, &nothing).unwrap();
    assert_eq!((report.escapes.len(), report.compared), (1, 500));
    assert_eq!(audit.digest(), None);
    assert!((20..=200).contains(&audit.watched()), "{} of 500", audit.watched());

    // And a sample is compared before all pages are watched again.
    let sampled = audit.watched();
    audit.set_rate(AuditRate::EVERY_PAGE);
    let report = audit.observe(&memory, &nothing).unwrap();
    assert_eq!((report.escapes, report.compared, report.pages), (vec![], sampled, sampled + 500));
    memory.poke(1, 99, 0, 0);
    assert_eq!(audit.observe(&memory, &nothing).unwrap().escapes.len(), 1);
    assert_eq!(audit.digest(), Some(digest));
}

/// Of 200 lost pages a sample of 1 % finds one with probability 0.866; within five standard deviations of 400 trials.
#[test]
fn a_sample_catches_as_surely_as_it_says() {
    let slots = table(&[2000]);
    let memory = Pages::new(&slots);
    let nothing = DirtyPages::new(&slots);
    let rate: AuditRate = "1%".parse().unwrap();
    assert!((rate.catches(200) - 0.866).abs() < 0.001);
    let mut audit = Audit::sample(&slots, &memory, rate).unwrap();
    let mut caught = 0;
    for trial in 1..=400_u32 {
        (0..200).for_each(|page| memory.poke(0, page * 10, 0, trial as u8 | 1 << (trial % 8)));
        (0..200).for_each(|page| memory.poke(0, page * 10, 1, (trial >> 3) as u8));
        (0..200).for_each(|page| memory.poke(0, page * 10, 2, trial as u8));
        let report = audit.observe(&memory, &nothing).unwrap();
        assert!(report.escapes.iter().all(|escape| escape.offset % 10 == 0));
        caught += u32::from(!report.escapes.is_empty());
    }
    assert!((312..=380).contains(&caught), "{caught} of 400");
}

#[test]
fn memory_that_cannot_be_read_leaves_nothing_to_compare() {
    let slots = table(&[10, 5]);
    let memory = Pages::new(&slots);
    let mut audit = Audit::begin(&slots, &memory).unwrap();
    let page = memory.1.lock().unwrap()[1].pop().unwrap();
    audit.observe(&memory, &DirtyPages::new(&slots)).unwrap_err();
    memory.1.lock().unwrap()[1].push(page);
    memory.poke(0, 3, 0, 1);
    let report = audit.observe(&memory, &DirtyPages::new(&slots)).unwrap();
    assert_eq!((report.compared, report.escapes), (0, vec![]));
    assert_eq!(audit.watched(), 15);
}

proptest! {
    /// A sample names no page that did not change, nor one that was reported.
    #[test]
    fn a_sample_names_only_escapes(
        changes in prop::collection::vec((0u16..2, 0u64..90, 0usize..4096, 1u8..), 0..60),
        reports in prop::collection::vec((0u16..2, 0u64..90), 0..30),
    ) {
        let slots = table(&[90, 90]);
        let memory = Pages::new(&slots);
        let mut audit = Audit::sample(&slots, &memory, "50%".parse().unwrap()).unwrap();
        let watched = audit.watched();
        let mut reported = DirtyPages::new(&slots);
        for &(id, page) in &reports {
            reported.insert(slot(id), page).unwrap();
        }
        let mut changed = DirtyPages::new(&slots);
        for &(id, page, byte, value) in &changes {
            memory.poke(id, page, byte, value);
            changed.insert(slot(id), page).unwrap();
        }
        let report = audit.observe(&memory, &reported).unwrap();
        prop_assert!(report.compared <= watched);
        for escape in &report.escapes {
            prop_assert!(changed.contains(escape.slot, escape.offset));
            prop_assert!(!reported.contains(escape.slot, escape.offset));
        }
    }

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
