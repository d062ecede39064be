//! The faults of real kernels, played.

use std::sync::{Arc, Barrier, Mutex, mpsc};

use ringmark_abi::Vm as _;
use ringmark_engine::{Exit, Profile, Rule, Vcpu};

use crate::common::{LOG, Ram, Reader, Rig, gpa, slot, touch};

fn interrupted(profile: Profile) -> (Rig, Vcpu, Reader) {
    let mut rig = Rig::ring(profile, 65536);
    rig.add(0, 0, 1000, LOG);
    rig.vm.set_strict(true);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut reader = Reader::new(&vcpu);
    touch(&mut vcpu, 0..300).unwrap();
    assert_eq!(reader.harvest_all().len(), 300);
    rig.vm.faults().signal_next_reset_after(100);
    (rig, vcpu, reader)
}

#[test]
fn an_interrupted_reset_counts_pages_that_it_does_not_protect() {
    let (rig, mut vcpu, reader) = interrupted(Profile::x86());
    assert_eq!(rig.reset(), 100);
    assert_eq!(rig.reset(), 200, "the sum is whole");
    touch(&mut vcpu, 0..300).unwrap();
    // Batches are 0..64 and 64..100; the second was being gathered.
    let expected: Vec<u64> = (0..64).chain(100..300).collect();
    assert_eq!(reader.offsets(), expected, "36 pages are writable and will never be logged again");
    let lost: Vec<_> = (64..100).map(|page| (slot(0), page)).collect();
    assert_eq!(rig.vm.unreported(), lost);
    let named = rig.vm.take_violations();
    assert!(named.iter().all(|violation| violation.rule == Rule::NeverReprotected));
    assert_eq!(named.iter().map(|v| (v.slot, v.offset)).collect::<Vec<_>>(), lost);
    rig.flags(0, 0);
    rig.flags(0, LOG);
    touch(&mut vcpu, [70]).unwrap();
    assert_eq!(reader.offsets().last(), Some(&70), "logging off and on makes tracking whole again");
}

#[test]
fn a_signal_behind_the_last_entry_loses_its_batch_with_a_full_count() {
    let (rig, mut vcpu, reader) = interrupted(Profile::x86());
    rig.vm.faults().signal_next_reset_after(300);
    assert_eq!(rig.reset(), 300);
    touch(&mut vcpu, 0..300).unwrap();
    assert_eq!(reader.offsets().len(), 256);
}

#[test]
fn an_older_kernel_finishes_whatever_comes() {
    let (rig, mut vcpu, reader) = interrupted(Profile::x86().reset_stops_on_signal(false));
    assert_eq!(rig.reset(), 300);
    touch(&mut vcpu, 0..300).unwrap();
    assert_eq!(reader.pending().len(), 300);
    assert_eq!(rig.vm.unreported(), []);
    assert_eq!(rig.vm.violations(), []);
}

#[test]
fn without_the_soft_full_check_a_ring_overflows() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 400, LOG);
    rig.vm.set_strict(true);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    rig.vm.faults().skip_soft_full_checks(270);
    assert_eq!(touch(&mut vcpu, 0..400), Err(Exit::DirtyRingFull));
    assert_eq!(rig.vm.stats().pushes, 271, "the first push that is checked stops the vCPU");
    assert_eq!(rig.vm.stats().hard_full_events, 15);
    let lost: Vec<_> = (0..15).map(|page| (slot(0), page)).collect();
    assert_eq!(rig.vm.unreported(), lost);
    assert_eq!(rig.vm.violations().iter().map(|v| (v.rule, v.offset)).collect::<Vec<_>>(), {
        (0..15).map(|page| (Rule::HardFull, page)).collect::<Vec<_>>()
    });
    assert_eq!(reader.pending().len(), 256, "a drain of exactly the ring's size");
}

/// Two callers reset, the first of them paused between dropping its lock and flushing. Returns what the second one copied of
/// the page, and what the page holds.
fn two_resets(serialised: bool) -> (u64, u64) {
    let mut rig = Rig::ring(Profile::x86(), 65536);
    let ram: Arc<Ram> = rig.add(0, 0, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut reader = Reader::new(&vcpu);
    let mutex = Mutex::new(());
    let (paused, copied) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    if !serialised {
        let (paused, copied) = (Arc::clone(&paused), Arc::clone(&copied));
        rig.vm.faults().before_reset_flush(move || {
            paused.wait();
            copied.wait();
        });
    }
    let mut running = vcpu.enter().unwrap();
    running.store(gpa(3), &1u64.to_ne_bytes()).unwrap();
    assert_eq!(reader.harvest_all().len(), 1);
    let (vm, mutex) = (&rig.vm, &mutex);
    let (started, start) = mpsc::channel();
    let copy = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _guard = serialised.then(|| mutex.lock().unwrap());
            started.send(()).unwrap();
            assert_eq!(vm.reset_dirty_rings(), Ok(1));
        });
        start.recv().unwrap();
        if !serialised {
            paused.wait();
        }
        let _guard = serialised.then(|| mutex.lock().unwrap());
        assert_eq!(vm.reset_dirty_rings(), Ok(0), "all was reset by the other");
        let copy = ram.read(3, 0);
        running.store(gpa(3), &2u64.to_ne_bytes()).unwrap();
        if !serialised {
            assert_eq!(reader.pending(), [], "stored through a translation that outlived its page's right");
            copied.wait();
        }
        copy
    });
    drop(running);
    // A round that finds nothing copies nothing.
    let again = reader.harvest_all().is_empty();
    (if again { copy } else { ram.read(3, 0) }, ram.read(3, 0))
}

#[test]
fn a_second_reset_returns_before_the_flush_of_the_first() {
    let (copy, content) = two_resets(false);
    assert_eq!((copy, content), (1, 2), "without a lock of the caller's the page is lost");
    let (copy, content) = two_resets(true);
    assert_eq!((copy, content), (2, 2), "with one it is logged again");
}
