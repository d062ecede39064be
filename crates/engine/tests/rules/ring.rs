//! Rings: what is pushed, when a vCPU stops, what a reset does.

use ringmark_abi::Vm as _;
use ringmark_dirty::{FLAG_DIRTY, FLAG_RESET};
use ringmark_engine::{Exit, Profile, Vcpu};

use crate::common::{LOG, Reader, Rig, gpa, region, touch};

/// A VM with one logging slot of `pages` pages from 0, one vCPU and rings of 256 entries.
fn small(pages: u64) -> (Rig, Vcpu, Reader) {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, pages, LOG);
    let vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    (rig, vcpu, reader)
}

#[test]
fn entries_name_slot_and_offset_in_the_order_of_the_stores() {
    let mut rig = Rig::ring(Profile::x86(), 65536);
    rig.add(5, 100, 8, LOG);
    rig.add(7, 200, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    touch(&mut vcpu, [100, 101, 102, 200, 201, 101]).unwrap();
    assert_eq!(reader.pending(), [(5, 0), (5, 1), (5, 2), (7, 0), (7, 1)]);
    assert_eq!(rig.reset(), 0, "nothing is harvested");
    assert_eq!(reader.pending().len(), 5);
}

#[test]
fn a_page_logs_again_only_after_its_entry_was_reset() {
    let (rig, mut vcpu, mut reader) = small(64);
    touch(&mut vcpu, 0..5).unwrap();
    assert_eq!(reader.harvest_all().len(), 5);
    touch(&mut vcpu, 0..5).unwrap();
    assert_eq!(reader.offsets(), [] as [u64; 0], "harvested, not reset");
    assert_eq!((rig.reset(), rig.reset()), (5, 0));
    assert!((0..5).all(|i| reader.entry(i).flags() == 0));
    touch(&mut vcpu, 0..3).unwrap();
    assert_eq!(reader.offsets(), [0, 1, 2]);
}

#[test]
fn only_the_reset_flag_counts_and_only_without_a_gap() {
    let (rig, mut vcpu, reader) = small(64);
    touch(&mut vcpu, 0..4).unwrap();
    reader.entry(1).set_flags(FLAG_RESET);
    assert_eq!(rig.reset(), 0, "entry 0 is in the way");
    reader.entry(0).set_flags(FLAG_RESET | FLAG_DIRTY);
    assert_eq!(rig.reset(), 2);
    reader.entry(2).set_flags(0);
    reader.entry(3).set_flags(FLAG_RESET);
    assert_eq!(rig.reset(), 0, "an entry that was emptied by hand stops the ring for ever");
}

#[test]
fn a_partial_harvest() {
    let (rig, mut vcpu, mut reader) = small(64);
    touch(&mut vcpu, 0..3).unwrap();
    reader.harvest(2);
    assert_eq!(rig.reset(), 2);
    touch(&mut vcpu, 0..3).unwrap();
    assert_eq!(reader.offsets(), [2, 0, 1], "page 2 is still writable");
}

#[test]
fn an_entry_of_nothing_is_counted_and_leaves_its_page_writable() {
    let (rig, mut vcpu, mut reader) = small(64);
    for (slot, offset) in [(77, 0), (0xffff, 0), (9 << 16, 0), (0, 64), (0, u64::MAX)] {
        touch(&mut vcpu, [9]).unwrap();
        assert_eq!(reader.harvest_all(), [(0, 9)]);
        reader.entry(reader.fetch.wrapping_sub(1)).set_payload(slot, offset);
        assert_eq!(rig.reset(), 1);
        touch(&mut vcpu, [9]).unwrap();
        assert_eq!(reader.offsets(), [] as [u64; 0], "slot {slot:#x}, offset {offset:#x}");
        rig.flags(0, 0);
        rig.flags(0, LOG);
    }
    touch(&mut vcpu, [9]).unwrap();
    assert_eq!(reader.offsets(), [9], "logging off and on protects everything again");
    assert_eq!(rig.vm.stats().invalid_resets, 5);
}

#[test]
fn a_batch_with_one_bad_entry_is_skipped_whole() {
    let (rig, mut vcpu, mut reader) = small(64);
    touch(&mut vcpu, [10, 63]).unwrap();
    reader.harvest_all();
    reader.entry(1).set_payload(0, 64);
    assert_eq!(rig.reset(), 2);
    touch(&mut vcpu, [10, 63]).unwrap();
    assert_eq!(reader.offsets(), [] as [u64; 0]);
}

#[test]
fn batches_go_back_and_forth_and_protect_exactly_their_pages() {
    let (rig, mut vcpu, mut reader) = small(200);
    let order = [70, 69, 133, 6, 7, 100, 99, 163, 199, 135];
    touch(&mut vcpu, order).unwrap();
    touch(&mut vcpu, [80]).unwrap();
    reader.harvest(order.len());
    assert_eq!(rig.reset(), 10);
    touch(&mut vcpu, 60..200).unwrap();
    let logged = reader.offsets();
    assert_eq!(
        logged.iter().filter(|&&page| page == 80).count(),
        1,
        "80 was not harvested, so not protected"
    );
    for page in order.into_iter().filter(|&page| page >= 60) {
        assert!(logged.contains(&page), "{page} was protected");
    }
}

#[test]
fn arm64_protects_from_the_lowest_to_the_highest_of_a_batch() {
    for (profile, expected) in [(Profile::arm64(), vec![5, 5]), (Profile::x86(), vec![5])] {
        let mut rig = Rig::ring(profile, 4096);
        rig.add(0, 0, 64, LOG);
        let mut vcpu = rig.vm.create_vcpu(0).unwrap();
        let mut reader = Reader::new(&vcpu);
        touch(&mut vcpu, [0, 9, 5]).unwrap();
        reader.harvest(2);
        assert_eq!(rig.reset(), 2);
        touch(&mut vcpu, [5]).unwrap();
        assert_eq!(reader.offsets(), expected);
    }
}

#[test]
fn entries_outlive_their_slot() {
    let (rig, mut vcpu, mut reader) = small(64);
    touch(&mut vcpu, 0..3).unwrap();
    rig.delete(0).unwrap();
    assert_eq!(reader.harvest_all().len(), 3);
    assert_eq!(rig.reset(), 3);
}

#[test]
fn nothing_is_logged_while_the_flag_is_off() {
    let (rig, mut vcpu, reader) = small(64);
    touch(&mut vcpu, 0..4).unwrap();
    rig.flags(0, 0);
    touch(&mut vcpu, 10..14).unwrap();
    assert_eq!(reader.offsets().len(), 4);
    rig.flags(0, LOG);
    touch(&mut vcpu, [0]).unwrap();
    assert_eq!(reader.offsets(), [0, 1, 2, 3, 0]);
    rig.rams[0].write(20, 0, 1);
    assert_eq!(reader.offsets().len(), 5, "the monitor's own store");
}

#[test]
fn a_moved_slot_keeps_its_name() {
    let (rig, mut vcpu, reader) = small(64);
    touch(&mut vcpu, [1]).unwrap();
    rig.set(&region(0, 1000, 64, LOG, &rig.rams[0])).unwrap();
    touch(&mut vcpu, [1001, 1002]).unwrap();
    assert_eq!(reader.pending(), [(0, 1), (0, 1), (0, 2)]);
}

#[test]
fn a_full_ring_stops_the_vcpu_before_the_store() {
    let (rig, mut vcpu, mut reader) = small(300);
    assert_eq!(touch(&mut vcpu, 0..300), Err(Exit::DirtyRingFull));
    assert_eq!(reader.offsets(), (0..192).collect::<Vec<_>>());
    assert_eq!(rig.rams[0].read(190, 0), 191);
    assert_eq!(rig.rams[0].read(191, 0), 0, "logged, not stored");
    assert_eq!(vcpu.enter().err(), Some(Exit::DirtyRingFull), "again");
    assert_eq!(reader.harvest_all().len(), 192);
    assert_eq!(vcpu.enter().err(), Some(Exit::DirtyRingFull), "harvesting alone makes no room");
    vcpu.set_immediate_exit();
    assert_eq!(vcpu.enter().err(), Some(Exit::Interrupted));
    vcpu.clear_immediate_exit();
    assert_eq!(rig.reset(), 192);
    touch(&mut vcpu, [191]).unwrap();
    assert_eq!(reader.offsets(), [191], "the store that waited is logged again");
    assert_eq!(rig.rams[0].read(191, 0), 192);
}

#[test]
fn a_full_ring_goes_before_a_signal_on_x86_and_after_it_on_arm64() {
    for (profile, first) in [(Profile::x86(), Exit::DirtyRingFull), (Profile::arm64(), Exit::Interrupted)] {
        let mut rig = Rig::ring(profile, 4096);
        rig.add(0, 0, 300, LOG);
        let mut vcpu = rig.vm.create_vcpu(0).unwrap();
        assert_eq!(touch(&mut vcpu, 0..300), Err(Exit::DirtyRingFull));
        vcpu.kicker().signal();
        assert_eq!(vcpu.enter().err(), Some(first));
    }
}

#[test]
fn many_pages_through_a_small_ring() {
    let (rig, mut vcpu, mut reader) = small(5000);
    let (mut entries, mut exits) = (0, 0);
    let mut page = 0;
    while page < 5000 {
        match vcpu.store(gpa(page), &(page + 1).to_ne_bytes()) {
            Ok(()) => page += 1,
            Err(Exit::DirtyRingFull) => {
                exits += 1;
                let taken = reader.harvest_all().len();
                entries += taken;
                assert_eq!(rig.reset() as usize, taken);
            }
            Err(exit) => panic!("{exit:?}"),
        }
    }
    entries += reader.harvest_all().len();
    assert!((0..5000).all(|page| rig.rams[0].read(page, 0) == page + 1));
    assert_eq!(entries, 5000 + exits, "one entry more for every store that had to wait");
    assert_eq!(usize::try_from(rig.vm.stats().ring_full_exits), Ok(exits));
    assert_eq!(rig.vm.stats().hard_full_events, 0);
}

#[test]
fn indices_wrap() {
    let (rig, mut vcpu, mut reader) = small(100);
    for _ in 0..20 {
        touch(&mut vcpu, 0..100).unwrap();
        assert_eq!(
            reader.harvest_all().iter().map(|e| e.1).collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
        assert_eq!(rig.reset(), 100);
    }
}

#[test]
fn every_vcpu_has_its_ring_and_reset_sums_them() {
    let (rig, _zero, reader0) = small(64);
    let mut three = rig.vm.create_vcpu(3).unwrap();
    let mut reader3 = Reader::new(&three);
    touch(&mut three, [1, 2, 3]).unwrap();
    assert_eq!(reader0.offsets(), [] as [u64; 0]);
    assert_eq!(reader3.harvest_all().len(), 3);
    assert_eq!(rig.reset(), 3);
    drop(three);
    assert_eq!(reader3.pending().len(), 0, "the mapping is still there");
    assert_eq!(rig.vm.reset_dirty_rings(), Ok(0));
}

#[test]
fn a_kick_ends_the_run_and_every_later_one_until_it_is_taken_back() {
    let (_rig, mut vcpu, _) = small(8);
    let kick = vcpu.kicker();
    let mut running = vcpu.enter().unwrap();
    kick.kick();
    assert_eq!(running.store(0, &[1]), Err(Exit::Interrupted));
    assert_eq!(running.store(0, &[1]), Err(Exit::Interrupted), "immediate_exit stays set");
    drop(running);
    vcpu.clear_immediate_exit();
    assert_eq!(vcpu.store(0, &[1]), Ok(()));
    kick.signal();
    assert_eq!(vcpu.store(0, &[1]), Err(Exit::Interrupted));
    assert_eq!(vcpu.store(0, &[1]), Ok(()), "a signal ends one run");
}

#[test]
fn the_monitors_own_page_events_make_pages_log_again() {
    let (rig, mut vcpu, reader) = small(8);
    touch(&mut vcpu, [3, 4]).unwrap();
    rig.vm.unmap(crate::common::slot(0), 3, 1);
    touch(&mut vcpu, [3, 4]).unwrap();
    assert_eq!(reader.offsets(), [3, 4, 3]);
}
