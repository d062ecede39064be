//! Memory that arrives late, in part, damaged, or never.

mod machines;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use ringmark_dirty::{AtomicBitmap, DirtyPages, PageSize, SlotId};
use ringmark_uffd::{Faults, Features, Userfaultfd};
use vm_memory::{Bytes, GuestAddress};

use super::contents::Place;
use super::*;
use crate::layout::{AddressMap, RamLayout};

const SLOT: SlotId = SlotId::new(0, 0);
const PAGES: u64 = 512;

/// Whether this host has what `test` needs; says so where it has not.
fn usable(test: &str, faults: Faults) -> bool {
    match Userfaultfd::open(faults, Features::MISSING_SHMEM) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED {test}: {error}");
            false
        }
    }
}

/// A gate that a thread can be made to wait at.
#[derive(Debug, Default)]
struct Hold {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Hold {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        drop(self.changed.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// Page n is full of n's low byte; every seventh is zero.
#[derive(Default)]
struct Fake {
    page_bytes: usize,
    damaged: BTreeSet<u64>,
    /// Where the loader waits.
    background: Arc<Hold>,
    /// Where a single page waits, if it does.
    single: Option<Arc<Hold>>,
    asked: Arc<AtomicU64>,
}

impl Fake {
    fn of(offset: u64) -> u8 {
        if offset.is_multiple_of(7) { 0 } else { u8::try_from(offset % 251).unwrap() + 1 }
    }

    fn hand_out(&self, slot: SlotId, offset: u64, place: Place<'_>) -> Result<(), LoadCause> {
        if self.damaged.contains(&offset) {
            return Err(LoadCause::NoSuchPage { slot, offset });
        }
        match Self::of(offset) {
            0 => Ok(()),
            byte => place(slot, offset, &vec![byte; self.page_bytes]),
        }
    }
}

impl Contents for Fake {
    fn page(&self, slot: SlotId, offset: u64, place: Place<'_>) -> Result<(), LoadCause> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(hold) = &self.single {
            hold.pass();
        }
        self.hand_out(slot, offset, place)
    }

    fn pages(&self, pages: &DirtyPages, place: Place<'_>) -> Result<(), LoadCause> {
        self.background.pass();
        pages.iter().try_for_each(|(slot, offset)| self.hand_out(slot, offset, place))
    }
}

struct Rig {
    loading: Loading,
    arrival: Arc<Arrival>,
    ram: Ram,
    page: usize,
    background: Arc<Hold>,
}

/// Memory that arrives from `fake`; its loader waits for `background`.
fn rig(fake: Fake) -> Rig {
    let page_size = PageSize::new(rustix::param::page_size() as u64).unwrap();
    let mut ram =
        Ram::new(RamLayout::new(AddressMap::Pc, PAGES * page_size.bytes(), page_size).unwrap()).unwrap();
    let page = usize::try_from(page_size.bytes()).unwrap();
    let background = Arc::clone(&fake.background);
    let arrival = ram.arrive_from(Box::new(Fake { page_bytes: page, ..fake }), Faults::UserOnly).unwrap();
    let loading = Loading::start(Arc::clone(&arrival), ram.slots(), DirtyPages::new(ram.slots())).unwrap();
    loading.begin();
    Rig { loading, arrival, ram, page, background }
}

impl Rig {
    fn address(&self, offset: u64) -> GuestAddress {
        self.ram.address(SLOT, offset).unwrap()
    }

    fn read(&self, offset: u64) -> Vec<u8> {
        let mut page = vec![0xee; self.page];
        self.ram.guest().read_slice(&mut page, self.address(offset)).unwrap();
        page
    }

    fn peek(&self, offset: u64) -> Result<Vec<u8>, ringmark_track::MemoryError> {
        let mut page = vec![0xee; self.page];
        self.ram.peek_pages(SLOT, offset, &mut page).map(|()| page)
    }
}

#[test]
fn whoever_reads_a_page_finds_it_before_and_after_everything_is_there() {
    if !usable("whoever_reads_a_page_finds_it", Faults::UserOnly) {
        return;
    }
    let rig = rig(Fake::default());
    // The hazard: what has not arrived is a hole, and a hole reads as zero.
    assert!(rig.ram.present().unwrap().is_empty());
    for round in 0..2 {
        for offset in (round * 50)..(round * 50 + 30) {
            let expected = vec![Fake::of(offset); rig.page];
            match offset % 3 {
                0 => assert_eq!(rig.read(offset), expected, "page {offset} through the mapping"),
                1 => assert_eq!(rig.peek(offset).unwrap(), expected, "page {offset} through the file"),
                _ => {
                    let mut page = vec![0; rig.page];
                    rig.ram.read_pages(SLOT, offset, &mut page).unwrap();
                    assert_eq!(page, expected, "page {offset} as checkpoints copy it");
                }
            }
        }
        let mut run = vec![0; 5 * rig.page];
        rig.ram.peek_pages(SLOT, 200 + round, &mut run).unwrap();
        for (offset, page) in (200 + round..).zip(run.chunks(rig.page)) {
            assert_eq!(page, vec![Fake::of(offset); rig.page], "page {offset} in a run");
        }
        if round == 0 {
            assert!(!rig.ram.arrival().unwrap().whole);
            rig.background.open();
            rig.ram.wait_until_whole().unwrap();
        }
    }
    assert!(rig.ram.arrival().unwrap().whole);
    assert!(rig.ram.arrival().unwrap().faults >= 10);
    for offset in 0..PAGES {
        assert_eq!(rig.read(offset), vec![Fake::of(offset); rig.page], "page {offset}");
    }
}

#[test]
fn what_was_written_early_stays() {
    if !usable("what_was_written_early_stays", Faults::UserOnly) {
        return;
    }
    let rig = rig(Fake::default());
    for offset in 0..PAGES {
        // Half of the pages, zero ones among them; part of a page, so that the rest has to be the image's.
        if offset % 2 == 0 {
            rig.ram.guest().write_obj(0xfeed_u64, GuestAddress(rig.address(offset).0 + 8)).unwrap();
        }
    }
    rig.background.open();
    rig.ram.wait_until_whole().unwrap();
    for offset in 0..PAGES {
        let mut expected = vec![Fake::of(offset); rig.page];
        if offset % 2 == 0 {
            expected[8..16].copy_from_slice(&0xfeed_u64.to_ne_bytes());
        }
        assert_eq!(rig.peek(offset).unwrap(), expected, "page {offset}");
    }
}

/// The rule on which increments stand: no page that somebody has written counts as still to come.
#[test]
fn a_written_page_is_never_outstanding() {
    if !usable("a_written_page_is_never_outstanding", Faults::UserOnly) {
        return;
    }
    for _ in 0..30 {
        let rig = rig(Fake::default());
        let written = AtomicBitmap::new(PAGES);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for step in 0..PAGES {
                    let offset = step * 37 % PAGES;
                    rig.ram.guest().write_obj(step, rig.address(offset)).unwrap();
                    written.set(offset);
                    if step == PAGES / 4 {
                        rig.background.open();
                    }
                }
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                let seen: Vec<u64> = (0..written.words()).map(|word| written.load_word(word)).collect();
                let outstanding = rig.arrival.outstanding(rig.ram.slots());
                for (_, offset) in outstanding.iter() {
                    let word = seen[usize::try_from(offset / 64).unwrap()];
                    assert_eq!(word >> (offset % 64) & 1, 0, "page {offset} was written");
                }
            }
        });
        rig.ram.wait_until_whole().unwrap();
        assert!(rig.arrival.outstanding(rig.ram.slots()).is_empty());
    }
}

#[test]
fn a_damaged_page_ends_the_machine_before_anyone_goes_on() {
    if !usable("a_damaged_page_ends_the_machine", Faults::UserOnly) {
        return;
    }
    let rig = rig(Fake { damaged: BTreeSet::from([9]), ..Fake::default() });
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    rig.loading.arrival().ends_by(Box::new(move |_| end.store(true, Ordering::SeqCst))).unwrap();
    assert_eq!(rig.read(8), vec![Fake::of(8); rig.page]);
    assert!(!ended.load(Ordering::SeqCst));
    // A vCPU that touches the page goes on only once the machine has ended.
    let _ = rig.read(9);
    assert!(ended.load(Ordering::SeqCst));
    let failure = rig.loading.arrival().failure().unwrap();
    assert_eq!(failure.page, Some((SLOT, 9)), "{failure}");
    assert!(rig.peek(9).is_err() && rig.peek(10).is_err() && rig.ram.wait_until_whole().is_err());
    rig.background.open();
}

#[test]
fn a_damaged_page_is_found_by_whoever_comes_first() {
    if !usable("a_damaged_page_is_found", Faults::UserOnly) {
        return;
    }
    // By the loader.
    let fake = || Fake { damaged: BTreeSet::from([300]), ..Fake::default() };
    let by_loader = rig(fake());
    by_loader.background.open();
    assert!(by_loader.ram.wait_until_whole().is_err());
    // By the monitor, before there is a machine that could be ended.
    let by_monitor = rig(fake());
    assert!(by_monitor.peek(300).is_err());
    assert!(by_monitor.loading.arrival().ends_by(Box::new(|_| unreachable!())).is_err());
    by_monitor.background.open();
}

#[test]
fn an_ended_machine_waits_for_no_store() {
    if !usable("an_ended_machine_waits_for_no_store", Faults::UserOnly) {
        return;
    }
    let single = Arc::new(Hold::default());
    let fake = Fake { single: Some(Arc::clone(&single)), ..Fake::default() };
    let asked = Arc::clone(&fake.asked);
    let rig = rig(fake);
    let (sent, received) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = rig.read(100);
            sent.send(()).unwrap();
        });
        while asked.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert!(received.recv_timeout(Duration::from_millis(20)).is_err(), "the page has not come");
        rig.loading.arrival().abandon();
        received.recv().unwrap();
    });
    assert!(rig.ram.wait_until_whole().is_err() && rig.peek(101).is_err());
    // The store answers at last; nothing comes of it.
    single.open();
    rig.background.open();
}

#[test]
fn several_threads_want_the_same_pages() {
    if !usable("several_threads_want_the_same_pages", Faults::UserOnly) {
        return;
    }
    let rig = rig(Fake::default());
    thread::scope(|scope| {
        for start in 0..4 {
            let rig = &rig;
            scope.spawn(move || {
                for step in 0..PAGES {
                    let offset = (start * 3 + step * 5) % PAGES;
                    let read = if step % 2 == 0 { rig.read(offset) } else { rig.peek(offset).unwrap() };
                    assert_eq!(read, vec![Fake::of(offset); rig.page], "page {offset}");
                    if step == 100 {
                        rig.background.open();
                    }
                }
            });
        }
    });
}
