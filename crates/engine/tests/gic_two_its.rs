//! Two ITSs, saved three times in a row with the bitmap collected each time.

mod gic_support;

use std::collections::BTreeSet;

use gic_support::{Rig, Tracking, commands::*, pages, pending_table, places, restore_its, save_registers};
use ringmark_abi::Errno;
use ringmark_engine::gic::{ctrl, gits};

fn two() -> Rig {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 2, 2);
    for n in 0..2u32 {
        let its = n as usize;
        rig.run(its, &[mapc(0, n), mapd(7, places(its).itts, 3), mapd(5000, places(its).itts + 0x1000, 3)]);
        for event in 0..4 {
            rig.run(its, &[mapti(7, event, 8192 + n * 100 + event, 0)]);
        }
    }
    rig
}

/// The pages of one ITS's tables.
fn tables(n: usize) -> BTreeSet<u64> {
    let at = places(n);
    pages([at.devices + 7 * 8, at.devices + 5000 * 8, at.collections, at.itts])
}

#[test]
fn each_save_logs_its_own_tables_every_time() {
    let rig = two();
    for _ in 0..3 {
        rig.save_tables(0).unwrap();
        assert_eq!(rig.collect(), tables(0));
        rig.save_tables(1).unwrap();
        assert_eq!(rig.collect(), tables(1));
    }
    for _ in 0..3 {
        rig.save_tables(0).unwrap();
        rig.save_tables(1).unwrap();
        assert_eq!(rig.collect(), &tables(0) | &tables(1), "one collection for both");
    }
    assert_eq!((rig.ring(0), rig.ring(1)), (vec![], vec![]));
}

#[test]
fn three_checkpoints_of_a_guest_that_goes_on() {
    let mut rig = two();
    let mut image = rig.ram.contents();
    for round in 0..3u32 {
        // The guest raises, takes and remaps interrupts between checkpoints.
        rig.run_as_guest(0, &[int(7, round), discard(7, 3 - round)]);
        rig.run_as_guest(1, &[int(7, 0), unmapd(5000)]);
        let _ = rig.vm.acknowledge_lpi(1);
        let from_ring: BTreeSet<u64> = rig.ring(0).into_iter().collect();
        rig.save_pending().unwrap();
        rig.save_tables(0).unwrap();
        rig.save_tables(1).unwrap();
        let logged = &rig.collect() | &from_ring;
        // Queue pages are written by the test, as the guest would through its own stores.
        let queues: BTreeSet<u64> = pages((0..2).map(|n| places(n).queue));
        let now = rig.ram.contents();
        for page in logged.union(&queues) {
            let at = usize::try_from(page * gic_support::PAGE).unwrap();
            image[at..at + 4096].copy_from_slice(&now[at..at + 4096]);
        }
        assert!(image == now, "checkpoint {round}: the image patched with the logged pages is guest memory");
        assert!(rig.collect().is_empty());
    }
}

#[test]
fn one_lpi_of_two_itss_lives_until_both_let_go() {
    let mut rig = two();
    rig.run(0, &[mapti(7, 4, 9000, 0)]);
    rig.run(1, &[mapti(7, 4, 9000, 0)]);
    assert_eq!(rig.signal(1, 7, 4), Ok(1));
    assert_eq!(rig.vm.pending_lpis(0), [9000], "the first mapping chose the vCPU");
    rig.run(0, &[discard(7, 4)]);
    assert_eq!(rig.vm.pending_lpis(0), [9000]);
    rig.run(1, &[discard(7, 4)]);
    assert_eq!(rig.vm.pending_lpis(0), []);
}

#[test]
fn resetting_one_leaves_the_other() {
    let mut rig = two();
    rig.save_tables(0).unwrap();
    rig.save_tables(1).unwrap();
    let registers = save_registers(&rig, 0);
    rig.control(0, ctrl::ITS_RESET).unwrap();
    assert_eq!(rig.signal(0, 7, 0), Err(Errno::EBUSY));
    assert_eq!(rig.signal(1, 7, 0), Ok(1));
    rig.save_pending().unwrap();
    assert_eq!(rig.ram.peek_byte(pending_table(1) + 8292 / 8), 1 << (8292 % 8));
    restore_its(&mut rig, 0, &registers).unwrap();
    assert_eq!(rig.signal(0, 7, 2), Ok(1));
    assert_eq!(rig.vm.pending_lpis(0), [8194]);
    assert_eq!(rig.its_read(0, gits::CTLR), Ok(0x8000_0001));
}
