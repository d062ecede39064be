//! Harvest and reset against a scripted kernel: what is done when the counts do not agree.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use ringmark_abi::Errno;
use ringmark_dirty::{Entry, RingMemory};
use ringmark_track::{BySource, CollectError, Event, Method, RingFull, TrackError, Tracker};
use support::{Counted, Kernel, Script, slot, table};

struct Rig {
    vm: Arc<Script>,
    tracker: Tracker,
    ring: Kernel,
    full: RingFull,
}

/// A VM of two slots and a vCPU with a ring of 256 entries, whose base is committed.
fn rig() -> Rig {
    let vm = Script::new(&[]);
    let mut tracker =
        Tracker::new(Arc::clone(&vm) as _, table(&[1000, 70]), Method::Ring { entries: 256 }).unwrap();
    let (ring, memory) = vm.ring(256);
    let full = tracker.add_ring(0, memory).unwrap();
    tracker.arm().unwrap();
    let cut = tracker.open().unwrap().cut().stop(Counted::default()).unwrap();
    cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap().resume().unwrap().commit();
    vm.toggled();
    Rig { vm, tracker, ring, full }
}

fn push(ring: &Kernel, id: u16, offset: u64) {
    ring.push(slot(id), offset);
}

impl Rig {
    /// One round of an epoch that is committed afterwards.
    fn round(&mut self) -> (Vec<(u16, u64)>, BySource) {
        let mut epoch = self.tracker.open().unwrap();
        let pages = epoch.round().unwrap().iter().map(|(slot, offset)| (slot.id(), offset)).collect();
        let cut = epoch.cut().stop(Counted::default()).unwrap();
        let epoch = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap().resume().unwrap();
        let by_source = epoch.by_source();
        epoch.commit();
        (pages, by_source)
    }
}

#[test]
fn pages_are_collected_once_and_every_entry_is_reset() {
    let mut rig = rig();
    rig.ring.push(slot(0), 5);
    rig.ring.push(slot(1), 69);
    rig.ring.push(slot(0), 5);
    let (pages, by_source) = rig.round();
    assert_eq!(pages, [(0, 5), (1, 69)]);
    assert_eq!((by_source.ring, by_source.event), (2, 0));
    assert_eq!(rig.ring.used(), 0);
    assert_eq!(rig.round().0, []);
    assert_eq!(rig.tracker.stats().read().unwrap().entries, 3);
    assert!(rig.vm.toggled().is_empty());
}

#[test]
fn a_full_ring_is_drained_alone_and_its_pages_wait_for_the_round() {
    let mut rig = rig();
    let (other, memory) = rig.vm.ring(256);
    rig.tracker.add_ring(1, memory).unwrap();
    other.push(slot(0), 999);
    for offset in 0..192 {
        rig.ring.push(slot(0), offset);
    }
    assert!(rig.ring.is_soft_full());
    assert_eq!(rig.full.drain().unwrap().entries, 192);
    assert_eq!((rig.ring.used(), other.used()), (0, 1));
    assert_eq!(rig.full.drain().unwrap().entries, 0);
    assert_eq!(rig.round().0.len(), 193);
}

#[test]
fn a_short_reset_makes_its_slots_suspect_and_protects_them_again() {
    let mut rig = rig();
    rig.ring.push(slot(1), 1);
    rig.ring.push(slot(1), 2);
    *rig.vm.cut_short.lock().unwrap() = Some(1);
    let (pages, by_source) = rig.round();
    assert_eq!(pages.len(), 70);
    assert_eq!((by_source.ring, by_source.event), (2, 68));
    assert_eq!(rig.vm.toggled(), [slot(1)]);
    let events = rig.tracker.events();
    assert_eq!(events.take(), [Event::ShortReset { harvested: 2, reset: 1, slots: vec![slot(1)] }]);
    assert_eq!(events.total(), 1);
    assert_eq!(rig.round().0, [], "the suspicion ends with the epoch that was told");
}

#[test]
fn a_reset_that_counts_too_much_makes_everything_suspect() {
    let mut rig = rig();
    rig.ring.push(slot(1), 1);
    *rig.vm.surplus.lock().unwrap() = 3;
    assert_eq!(rig.round().0.len(), 1070);
    let toggled = rig.vm.toggled();
    assert!(toggled.contains(&slot(0)) && toggled.contains(&slot(1)));
    assert_eq!(rig.tracker.events().take()[0], Event::ForeignReset { harvested: 1, reset: 4 });
    rig.ring.push(slot(1), 2);
    assert_eq!(rig.round().0, [(1, 2)]);
}

#[test]
fn an_overrun_ring_makes_everything_suspect_and_is_usable_afterwards() {
    let mut rig = rig();
    for offset in 0..300 {
        rig.ring.push(slot(0), offset);
    }
    assert_eq!(rig.round().0.len(), 1070);
    assert_eq!(rig.vm.toggled(), [slot(0), slot(1)]);
    let event = &rig.tracker.events().take()[0];
    assert!(matches!(event, Event::RingOverflow { vcpu: 0, taken: 256, size: 256, times: 1 }), "{event}");
    for round in 0..20 {
        for offset in 0..100 {
            rig.ring.push(slot(0), (round * 37 + offset) % 1000);
        }
        let (pages, by_source) = rig.round();
        assert_eq!((pages.len(), by_source.ring), (100, 100), "round {round}");
    }
    assert_eq!(rig.tracker.events().total(), 1);
}

/// Entries that count as used and are nowhere: the vCPU cannot push, and nothing shows where the kernel's cursor is.
#[test]
fn a_ring_overrun_many_times_over_becomes_usable_again() {
    for pushes in [257u32, 300, 448, 500, 744, 782, 2000, 3001] {
        for before in [0u32, 1, 100, 255] {
            let mut rig = rig();
            let ring = Arc::clone(&rig.ring);
            let push = |n: u32| assert!(ring.push(slot(0), u64::from(n % 1000)).used_before < 4000);
            (0..before).for_each(push);
            rig.full.drain().unwrap();
            (0..pushes).for_each(push);
            // As the kernel: a vCPU with a full ring exits before it can push.
            let mut exits = 0;
            for n in 0..500 {
                while rig.ring.is_soft_full() {
                    rig.full.drain().unwrap();
                    exits += 1;
                    assert!(exits < 100, "{pushes} pushes after {before}: {} used", rig.ring.used());
                }
                push(n);
            }
            assert_eq!(rig.round().0.len(), 1070, "{pushes} pushes after {before}");
            for round in 0..5 {
                (0..100).for_each(push);
                assert_eq!(rig.round().0.len(), 100, "{pushes} pushes after {before}, round {round}");
            }
        }
    }
}

/// The kernel pushes over entries that were harvested and not yet reset: its reset stops there, and the reader is
/// elsewhere.
#[test]
fn a_ring_overrun_between_harvest_and_reset_is_found_again() {
    for (harvested, pushes) in
        [(1u32, 256u32), (10, 246), (10, 250), (10, 256), (10, 300), (200, 60), (200, 56), (200, 300)]
    {
        let mut rig = rig();
        let push =
            |ring: &Kernel, n: u32| assert!(ring.push(slot(0), u64::from(n % 1000)).used_before < 4000);
        (0..harvested).for_each(|n| push(&rig.ring, n));
        let ring = Arc::clone(&rig.ring);
        *rig.vm.before_reset.lock().unwrap() =
            Some(Box::new(move || (0..pushes).for_each(|n| push(&ring, n))));
        let mut epoch = rig.tracker.open().unwrap();
        let pages = epoch.round().unwrap().len();
        let vcpus = Counted::default();
        let overrun = harvested + pushes > 256;
        assert_eq!(pages == 1070, overrun, "{pushes} pushes over {harvested} harvested: {pages} pages");
        let cut = epoch.cut().stop(vcpus).unwrap();
        cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap().resume().unwrap().commit();
        rig.vm.toggled();
        for round in 0..5 {
            for n in 0..100 {
                while rig.ring.is_soft_full() {
                    rig.full.drain().unwrap();
                }
                push(&rig.ring, n + 3 * round);
            }
            let pages = rig.round().0.len();
            assert_eq!(pages, 100, "{pushes} pushes over {harvested} harvested, round {round}");
        }
        assert!(rig.ring.used() < 192 && rig.vm.toggled().is_empty());
    }
}

#[test]
fn a_ring_that_is_overrun_again_and_again_is_one_event_that_counts() {
    let mut rig = rig();
    for _ in 0..5 {
        (0..300).for_each(|offset| push(&rig.ring, 0, offset));
        assert_eq!(rig.round().0.len(), 1070);
    }
    let events = rig.tracker.events();
    assert_eq!(events.take(), [Event::RingOverflow { vcpu: 0, taken: 256, size: 256, times: 5 }]);
    assert_eq!(events.total(), 1);
    (0..300).for_each(|offset| push(&rig.ring, 0, offset));
    rig.round();
    let again = events.take();
    assert!(matches!(again[..], [Event::RingOverflow { times: 1, .. }]), "{again:?}");
    assert_eq!(rig.round().0, [], "the reader is where the kernel is");
}

#[test]
fn entries_that_name_no_page_are_events() {
    let mut rig = rig();
    rig.ring.push(slot(9), 1);
    rig.ring.push(slot(0), 3);
    assert_eq!(rig.round().0, [(0, 3)]);
    assert_eq!(
        rig.tracker.events().take(),
        [Event::InvalidEntries { vcpu: 0, count: 1, slot: slot(9), offset: 1 }]
    );
    assert!(rig.vm.toggled().is_empty());

    // The kernel drops the whole batch of an entry past the end, so its neighbours are not protected again.
    rig.ring.push(slot(1), 60);
    rig.ring.push(slot(1), 70);
    assert_eq!(rig.round().0.len(), 70);
    assert_eq!(rig.vm.toggled(), [slot(1)]);
}

#[test]
fn pages_of_a_reset_that_failed_come_with_the_next_harvest() {
    let mut rig = rig();
    rig.ring.push(slot(0), 8);
    *rig.vm.refuse_reset.lock().unwrap() = Some(Errno::EIO);
    assert!(matches!(rig.full.drain(), Err(CollectError::Reset(Errno::EIO))));
    let mut epoch = rig.tracker.open().unwrap();
    let error = epoch.round().unwrap_err();
    assert!(error.to_string().contains("KVM_RESET_DIRTY_RINGS failed"), "{error}");
    *rig.vm.refuse_reset.lock().unwrap() = None;
    assert_eq!(epoch.round().unwrap().iter().collect::<Vec<_>>(), [(slot(0), 8)]);
    drop(epoch);
    assert_eq!((rig.ring.used(), rig.tracker.events().total()), (0, 0));
}

#[test]
fn what_an_overrun_ring_lost_is_suspect_although_its_reset_fails() {
    let mut rig = rig();
    // Before the first entry: the collector looks at the ring by itself, too.
    *rig.vm.refuse_reset.lock().unwrap() = Some(Errno::EINVAL);
    // A ring full to its last entry may have been pushed over, and later counts need not show it.
    for offset in 0..256 {
        rig.ring.push(slot(0), offset);
    }
    rig.tracker.open().unwrap().round().unwrap_err();
    *rig.vm.refuse_reset.lock().unwrap() = None;
    assert_eq!(rig.round().0.len(), 1070, "the entries that were overwritten may have been of any page");
    assert!(rig.vm.toggled().contains(&slot(1)));
    let events = rig.tracker.events().take();
    assert!(events.iter().any(|event| matches!(event, Event::RingOverflow { .. })), "{events:?}");
}

#[test]
fn what_a_short_reset_left_writable_is_suspect_although_the_next_reset_fails() {
    let mut rig = rig();
    rig.ring.push(slot(1), 1);
    rig.ring.push(slot(1), 2);
    *rig.vm.cut_short.lock().unwrap() = Some(1);
    let vm = Arc::clone(&rig.vm);
    // The first reset is counted already when this is looked at, the second is not.
    *rig.vm.before_reset.lock().unwrap() =
        Some(Box::new(move || *vm.refuse_reset.lock().unwrap() = Some(Errno::EINVAL)));
    rig.tracker.open().unwrap().round().unwrap_err();
    *rig.vm.refuse_reset.lock().unwrap() = None;
    assert_eq!(rig.round().0.len(), 70);
    assert_eq!(rig.vm.toggled(), [slot(1)]);
}

#[test]
fn a_slot_that_cannot_be_protected_again_is_suspect_until_it_can() {
    let mut rig = rig();
    *rig.vm.refuse_flags.lock().unwrap() = Some((slot(1), Errno::ENOMEM));
    rig.ring.push(slot(1), 1);
    *rig.vm.cut_short.lock().unwrap() = Some(0);
    assert_eq!(rig.round().0.len(), 70);
    assert_eq!(rig.round().0.len(), 70);
    *rig.vm.refuse_flags.lock().unwrap() = None;
    assert_eq!(rig.round().0.len(), 70);
    assert_eq!(rig.round().0.len(), 0);
    assert!(
        rig.tracker.events().take().contains(&Event::NotReprotected { slot: slot(1), errno: Errno::ENOMEM })
    );
}

#[test]
fn an_entry_after_the_seal_fails_the_cut() {
    let mut rig = rig();
    let vcpus = Counted::default();
    let cut = rig.tracker.open().unwrap().cut().stop(vcpus.clone()).unwrap();
    let cut = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
    // A vCPU ioctl that writes guest memory, made too late.
    rig.ring.push(slot(0), 77);
    let error = cut.resume().unwrap_err();
    assert!(error.to_string().contains("dirty rings") && vcpus.runs(), "{error}");
    assert_eq!(rig.round().0, [(0, 77)]);
}

#[test]
fn a_ring_that_is_always_full_and_empty_is_an_error() {
    let rig = rig();
    let stuck = (0..2000).find_map(|_| rig.full.drain().err());
    assert!(matches!(stuck, Some(CollectError::Stuck { vcpu: 0 })), "{stuck:?}");
}

#[test]
fn rings_are_added_once_and_only_where_there_are_rings() {
    let mut rig = rig();
    let (_, memory) = rig.vm.ring(256);
    let error = rig.tracker.add_ring(0, Arc::clone(&memory)).unwrap_err();
    assert!(matches!(error, TrackError::Collector(CollectError::DuplicateRing { vcpu: 0 })), "{error}");
    let mut bitmaps = Tracker::new(Script::new(&[]) as _, table(&[10]), Method::Bitmap).unwrap();
    assert!(matches!(bitmaps.add_ring(0, memory), Err(TrackError::NoRings)));
}

#[test]
fn a_tracker_that_is_gone_is_an_error_and_no_hang() {
    let Rig { tracker, full, .. } = rig();
    drop(tracker);
    assert!(matches!(full.drain(), Err(CollectError::Gone)));
}

/// A ring whose memory cannot be looked at a second time.
struct Poisoned(Arc<dyn RingMemory>, AtomicU32);

impl RingMemory for Poisoned {
    fn entries(&self) -> &[Entry] {
        assert!(self.1.fetch_add(1, Ordering::SeqCst) < 1, "the mapping is gone (this panic is the test)");
        self.0.entries()
    }
}

#[test]
fn a_collector_that_panics_is_an_error_and_no_hang() {
    let vm = Script::new(&[]);
    let mut tracker =
        Tracker::new(Arc::clone(&vm) as _, table(&[10]), Method::Ring { entries: 256 }).unwrap();
    let memory = Arc::new(Poisoned(vm.ring(256).1, 0.into()));
    let full = tracker.add_ring(0, memory).unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let full = full.clone();
            thread::spawn(move || full.drain())
        })
        .collect();
    for waiter in waiting {
        assert!(matches!(waiter.join().unwrap(), Err(CollectError::Gone)));
    }
    let error = tracker.arm().unwrap_err();
    assert!(error.to_string().contains("the collector of the dirty rings has ended"), "{error}");
}

#[test]
fn the_collector_blocks_every_signal_that_can_be_blocked() {
    let rig = rig();
    let mut masks = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        if name.trim() == "ringmark-reaper" {
            let status = std::fs::read_to_string(path.join("status")).unwrap();
            let mask =
                status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
            masks.push(u64::from_str_radix(&mask, 16).unwrap());
        }
    }
    // All but SIGKILL (9), SIGSTOP (19) and the two that libc keeps for itself (32, 33).
    let all = !(1u64 << 8 | 1 << 18 | 1 << 31 | 1 << 32);
    assert!(!masks.is_empty() && masks.iter().any(|mask| mask & all == all), "{masks:x?}");
    drop(rig);
}
