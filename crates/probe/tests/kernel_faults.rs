//! The known faults of real kernels on this host's KVM: seen without Ringmark, contained with it.
//!
//! A kernel that does not have one passes too, and says so: its counts are printed (with `--nocapture`).
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_kvm::System;
use ringmark_probe::*;
use ringmark_track::{Audit, BoxError, BySource, Event, Memory, RingFull, Tracker, Vcpus, Wish};

const LIMIT: Duration = Duration::from_secs(120);
/// Several batches of 64 entries, and a moment's work for an emulated kernel.
const PAGES: u64 = 2000;

fn system(test: &str) -> Option<System> {
    match System::open() {
        Ok(system) => Some(system),
        Err(why) => {
            eprintln!("SKIPPED {test}: no /dev/kvm ({why})");
            None
        }
    }
}

/// A vCPU that stands still whenever a test does not run it.
struct Still;

impl Vcpus for Still {
    fn stop(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A guest of one vCPU, its tracker, and a consumer that knows of memory only what epochs report.
struct Rig {
    // The vCPU and whoever tracks go before the guest.
    cpu: Processor,
    full: RingFull,
    tracker: Tracker,
    faulty: Arc<Faulty>,
    audit: Audit,
    copy: Vec<Vec<u8>>,
    guest: Guest,
    value: u64,
}

impl Rig {
    fn new(system: &System, entries: Option<u32>, privilege: Privilege) -> Self {
        let (guest, chosen) = Guest::new(system, Wish::Ring { entries }, &[PAGES, PAGES]).unwrap();
        // About half of what a kernel takes for so many entries.
        let interrupt = |vm: &dyn ringmark_abi::Vm, entries: u32| {
            reset_amid_signals(vm, Duration::from_micros(2) + Duration::from_nanos(8) * entries)
        };
        let faulty = Arc::new(Faulty::new(guest.vm(), Box::new(interrupt)));
        let mut tracker =
            Tracker::new(Arc::clone(&faulty) as _, guest.ram().slots().clone(), chosen.method).unwrap();
        let cpu = guest.processor(0, privilege).unwrap();
        let ring = cpu.ring_memory().unwrap();
        faulty.add_ring(Arc::clone(&ring));
        let full = tracker.add_ring(0, ring).unwrap();
        tracker.arm().unwrap();
        let audit = Audit::begin(guest.ram().slots(), guest.ram()).unwrap();
        let page = usize::try_from(guest.ram().page_size().bytes()).unwrap();
        let copy = vec![vec![0; page]; usize::try_from(2 * PAGES).unwrap()];
        let mut rig = Self { cpu, full, tracker, faulty, audit, copy, guest, value: 0 };
        assert_eq!(rig.cut().carried, 2 * PAGES, "the base");
        rig
    }

    /// Stores a new value to each of the first `pages` pages; how often the ring was full.
    fn sweep(&mut self, pages: u64) -> u32 {
        self.start(pages);
        let full = &self.full;
        self.cpu.finish(LIMIT, || drained(full)).unwrap()
    }

    fn start(&mut self, pages: u64) {
        self.value += 1;
        self.cpu.start(Program::Sweep { first: 0, pages, value: self.value }).unwrap();
    }

    /// Ends an epoch: no page may differ from what was reported of it.
    fn cut(&mut self) -> BySource {
        let Self { tracker, guest, copy, audit, .. } = self;
        let ram = guest.ram();
        let mut epoch = tracker.open().unwrap();
        let round = epoch.round().unwrap();
        capture(ram, &round, copy);
        let cut = epoch.cut().stop(Still).unwrap().save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
        capture(ram, cut.pages(), copy);
        let mut now = vec![0; copy[0].len()];
        for (page, copy) in (0..).zip(&*copy) {
            let (slot, offset) = ram.locate(page).unwrap();
            ram.read(slot, offset, &mut now).unwrap();
            assert!(now == *copy, "page {page} differs from what was reported of it");
        }
        assert_eq!(audit.observe(ram, cut.epoch_pages()).unwrap().escapes, []);
        let epoch = cut.resume().unwrap();
        let by_source = epoch.by_source();
        epoch.commit();
        by_source
    }

    fn events(&self) -> Vec<Event> {
        self.tracker.events().take()
    }
}

fn capture(ram: &Ram, pages: &DirtyPages, copy: &mut [Vec<u8>]) {
    for (slot, offset) in pages.iter() {
        let page = if slot.id() == 0 { offset } else { PAGES + offset };
        ram.read(slot, offset, &mut copy[usize::try_from(page).unwrap()]).unwrap();
    }
}

fn drained(full: &RingFull) -> Result<(), ProbeError> {
    full.drain().map(drop).map_err(|error| ProbeError::Left(error.to_string()))
}

/// What happens to who resets on a thread that takes signals, again and again until the count is right.
#[test]
fn an_interrupted_reset_loses_pages_where_the_kernel_has_the_fault() {
    let Some(system) = system("an_interrupted_reset_loses_pages_where_the_kernel_has_the_fault") else {
        return;
    };
    const TRIES: u32 = 3;
    let found = interrupted_reset(&system, TRIES, LIMIT).unwrap();
    let InterruptedReset { tries, entries, calls, lost } = found;
    if lost > 0 {
        eprintln!(
            "interrupted reset: REPRODUCED: {entries} entries in {calls} calls, {lost} pages logged no more"
        );
    } else {
        eprintln!(
            "interrupted reset: NOT PRESENT: {tries} tries, {entries} entries in {calls} calls, none lost"
        );
        assert!(tries > 0);
    }
}

#[test]
fn with_the_collector_no_reset_is_interrupted() {
    let Some(system) = system("with_the_collector_no_reset_is_interrupted") else { return };
    let mut rig = Rig::new(&system, None, Privilege::User);
    let storm = Storm::start(Duration::from_millis(1)).unwrap();
    for _ in 0..10 {
        rig.sweep(2 * PAGES);
        let by_source = rig.cut();
        assert_eq!((by_source.ring, by_source.total()), (2 * PAGES, 2 * PAGES), "{by_source:?}");
    }
    eprintln!("collector amid signals: {} signals, 10 epochs, no page lost", storm.sent());
    assert!(storm.sent() > 0);
    assert_eq!(rig.events(), []);
}

#[test]
fn a_reset_that_is_cut_short_beneath_the_tracker_loses_nothing() {
    let Some(system) = system("a_reset_that_is_cut_short_beneath_the_tracker_loses_nothing") else { return };
    for fault in [Fault::InterruptedReset, Fault::ShortCount] {
        let mut rig = Rig::new(&system, None, Privilege::User);
        for round in 0..5 {
            // The second slot is not touched, and so not in doubt.
            rig.sweep(PAGES - 100);
            rig.faulty.inject(fault);
            let by_source = rig.cut();
            assert_eq!(rig.faulty.take_happened(), [fault]);
            assert_eq!((by_source.ring, by_source.event), (PAGES - 100, 100), "{fault}, round {round}");
            let events = rig.events();
            assert!(matches!(&events[..], [Event::ShortReset { .. }]), "{fault}: {events:?}");
            eprintln!("{fault}: {}; {} pages reported, none lost", events[0], by_source.total());
            // The log was switched off and on: each page is protected, and logs again.
            rig.sweep(PAGES);
            let by_source = rig.cut();
            assert_eq!((by_source.ring, by_source.event), (PAGES, 0), "{fault}, round {round}");
        }
    }
}

/// Not every fault is a signal's: what the tracker does about a refused reset or memslot change.
#[test]
fn a_refused_call_loses_nothing() {
    let Some(system) = system("a_refused_call_loses_nothing") else { return };
    let mut rig = Rig::new(&system, None, Privilege::User);
    rig.sweep(PAGES);
    rig.faulty.inject(Fault::RefusedReset);
    assert!(rig.tracker.open().unwrap().round().is_err());
    assert_eq!(rig.cut().ring, PAGES);

    rig.sweep(PAGES);
    rig.faulty.inject(Fault::ShortCount);
    rig.faulty.inject(Fault::RefusedFlags);
    rig.cut();
    assert_eq!(rig.faulty.take_happened(), [Fault::RefusedReset, Fault::ShortCount, Fault::RefusedFlags]);
    rig.sweep(PAGES);
    rig.cut();
    rig.sweep(PAGES);
    assert_eq!(rig.cut().ring, PAGES, "{:?}", rig.events());
}

#[test]
fn a_small_ring_overflows_where_the_kernel_has_the_fault() {
    let Some(system) = system("a_small_ring_overflows_where_the_kernel_has_the_fault") else { return };
    const TRIES: u32 = 3;
    let found = overflow(&system, TRIES, LIMIT).unwrap();
    let Overflow { tries, ring, full, most, overruns, lost } = found;
    if overruns > 0 {
        eprintln!(
            "overflow: REPRODUCED: {tries} rings of {ring} entries, {overruns} overrun at {full} full exits, {lost} pages lost"
        );
    } else {
        eprintln!(
            "overflow: NOT PRESENT: {tries} tries, rings of {ring} entries, {full} full exits with at most {most} entries"
        );
        assert_eq!(lost, 0);
        assert!(full > 0 && most < ring);
    }
}

#[test]
fn with_the_tracker_an_overrun_ring_loses_nothing_and_is_read_on() {
    let Some(system) = system("with_the_tracker_an_overrun_ring_loses_nothing_and_is_read_on") else {
        return;
    };
    let ring = overflow(&system, 1, LIMIT).unwrap().ring;
    let mut rig = Rig::new(&system, Some(ring), Privilege::Kernel);
    let mut overruns = 0;
    for round in 0..4 {
        let full = rig.sweep(2 * PAGES);
        let by_source = rig.cut();
        let events = rig.events();
        // No event without an overrun, and one for all of a cut's; also of entries that were pushed over while they waited for
        // their reset, which the kernel does not count.
        assert!(matches!(events[..], [] | [Event::RingOverflow { .. }]), "{events:?}");
        overruns += events.len();
        if let Some(event) = events.first() {
            assert_eq!(by_source.total(), 2 * PAGES, "every page is reported");
            eprintln!("overflow, contained: {event} ({full} full exits)");
        } else {
            assert_eq!((by_source.ring, by_source.event), (2 * PAGES, 0));
        }
        // The reader stands where the kernel pushes next: nothing is lost, doubled or suspected from here on.
        for _ in 0..5 {
            rig.sweep(u64::from(ring / 4));
            let by_source = rig.cut();
            assert_eq!((by_source.ring, by_source.event), (u64::from(ring / 4), 0), "round {round}");
        }
        assert_eq!(rig.events(), []);
    }
    eprintln!(
        "overflow beneath the tracker: {overruns} events, no page lost{}",
        if overruns == 0 { " (NOT PRESENT: no ring was overrun)" } else { "" }
    );
}

#[test]
fn an_entry_ahead_of_its_store_is_logged_again() {
    let Some(system) = system("an_entry_ahead_of_its_store_is_logged_again") else { return };
    let found = last_entry(&system, LIMIT).unwrap();
    eprintln!("newest entry: {} pages logged, {} of them not yet stored", found.logged, found.ahead);
    assert!(found.ahead <= 1 && found.logged > 1, "{found:?}");

    let ring = overflow(&system, 1, LIMIT).unwrap().ring;
    let mut rig = Rig::new(&system, Some(ring), Privilege::User);
    rig.start(2 * PAGES);
    let mut cuts = 0;
    // A cut at each full ring: the page whose store is still to come is copied as it is, and comes again.
    loop {
        match rig.cpu.run().unwrap() {
            Step::Done => break,
            Step::Interrupted => {}
            Step::RingFull => {
                rig.cut();
                cuts += 1;
            }
        }
    }
    rig.cut();
    assert!(cuts > 0);
    assert_eq!(rig.events(), []);
    assert!((0..2 * PAGES).all(|page| rig.guest.ram().word(page) == Some(rig.value)));
}

#[test]
fn a_ring_without_a_bitmap_loses_pages_only_where_the_kernel_has_the_fault() {
    let Some(system) = system("a_ring_without_a_bitmap_loses_pages_only_where_the_kernel_has_the_fault")
    else {
        return;
    };
    let found = ring_without_bitmap(&system, LIMIT).unwrap();
    eprintln!("ring without bitmap, huge pages: {} written, {} logged", found.written, found.logged);
    assert!(found.logged > 0);
    if cfg!(target_arch = "x86_64") {
        assert_eq!(found.lost(), 0, "x86 has no such bitmap, and needs none");
    }
}

/// What a probe is for it can also not answer, and says so in time.
#[test]
fn a_guest_that_does_not_end_is_given_up() {
    let Some(system) = system("a_guest_that_does_not_end_is_given_up") else { return };
    let (guest, _) = Guest::new(&system, Wish::Bitmap, &[64]).unwrap();
    let mut cpu = guest.processor(0, Privilege::User).unwrap();
    cpu.start(Program::Scatter { first: 0, pages: 64, seed: 1 }).unwrap();
    let begun = Instant::now();
    let mut stores = false;
    // A busy host may give the guest none of the first moment.
    while !stores && begun.elapsed() < LIMIT {
        let ended = cpu.finish(Duration::from_millis(200), || Ok(()));
        assert!(matches!(ended, Err(ProbeError::Timeout(_))), "{ended:?}");
        stores = (0..64).any(|page| guest.ram().word(page) != Some(0));
    }
    assert!(stores, "it stores all the while");
}
