//! Where the interrupt controller's writes are logged: in the backup bitmap, or in the ring of the vCPU that caused them.

mod gic_support;

use std::collections::BTreeSet;

use gic_support::{PAGE, PAGES, RAM, Rig, SLOT, Tracking, WORDS, commands::*, pages, pending_table, places};
use ringmark_abi::{EnableCap, Errno, Vm as _, cap, mem};
use ringmark_engine::gic::{ctrl, gits, group};

const NONE: BTreeSet<u64> = BTreeSet::new();

/// A device 1 with events 0 to 3 as LPIs 8192 to 8195, in collection 0 at vCPU 0.
fn mapped(tracking: Tracking) -> Rig {
    let mut rig = Rig::programmed(tracking, 1, 1);
    rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 2)]);
    for event in 0..4 {
        rig.run(0, &[mapti(1, event, 8192 + event, 0)]);
    }
    rig
}

/// The address of the byte with the pending bit of `lpi`, at vCPU 0.
fn pending_byte(lpi: u32) -> u64 {
    pending_table(0) + u64::from(lpi / 8)
}

#[test]
fn saving_pending_tables_logs_what_changes_once() {
    let rig = mapped(Tracking::RingWithBitmap);
    assert_eq!(rig.signal(0, 1, 2), Ok(1));
    rig.save_pending().unwrap();
    assert_eq!(rig.ram.peek_byte(pending_byte(8194)), 0b100);
    assert_eq!(rig.collect(), pages([pending_byte(8194)]));
    rig.save_pending().unwrap();
    assert_eq!(rig.collect(), NONE, "nothing changed");
    assert_eq!(rig.vm.acknowledge_lpi(0), Some(8194));
    rig.save_pending().unwrap();
    assert_eq!(rig.ram.peek_byte(pending_byte(8194)), 0);
    assert_eq!(rig.collect(), pages([pending_byte(8194)]));
    assert_eq!(rig.ring(0), []);
}

#[test]
fn the_first_kibibyte_of_a_pending_table_is_left_alone() {
    let rig = mapped(Tracking::RingWithBitmap);
    rig.ram.poke(pending_table(0), &[0xff; 1024]);
    rig.ram.poke(pending_table(0) + 1024, &[0xf0]);
    rig.signal(0, 1, 0).unwrap();
    rig.save_pending().unwrap();
    for i in 0..1024 {
        assert_eq!(rig.ram.peek_byte(pending_table(0) + i), 0xff);
    }
    assert_eq!(rig.ram.peek_byte(pending_table(0) + 1024), 0xf1, "bits of unmapped LPIs stay");
}

#[test]
fn a_discard_is_logged_where_it_was_caused() {
    let mut rig = mapped(Tracking::RingWithBitmap);
    rig.save_tables(0).unwrap();
    rig.collect();
    rig.run(0, &[discard(1, 0)]);
    assert_eq!(rig.entry(places(0).itts), 0);
    assert_eq!((rig.collect(), rig.ring(0)), (pages([places(0).itts]), vec![]), "user space: the bitmap");
    rig.run_as_guest(0, &[discard(1, 1)]);
    assert_eq!(rig.entry(places(0).itts + 8), 0);
    let page = (places(0).itts - RAM) / PAGE;
    assert_eq!((rig.collect(), rig.ring(0)), (NONE, vec![page]), "the guest: its vCPU's ring");
}

#[test]
fn unmapping_a_device_zeroes_its_entry() {
    let mut rig = mapped(Tracking::RingWithBitmap);
    rig.save_tables(0).unwrap();
    rig.collect();
    rig.run(0, &[unmapd(1)]);
    assert_eq!(rig.entry(places(0).devices + 8), 0);
    assert_eq!(rig.collect(), pages([places(0).devices + 8]));
    rig.run(0, &[unmapd(1)]);
    assert_eq!(rig.collect(), pages([places(0).devices + 8]), "also if it is not mapped");
    rig.run_as_guest(0, &[unmapd(600)]);
    assert_eq!(rig.ring(0), [(places(0).devices + 600 * 8 - RAM) / PAGE]);
    assert_eq!(rig.collect(), NONE);
}

#[test]
fn mapping_an_event_consumes_its_pending_bit() {
    let mut rig = mapped(Tracking::RingWithBitmap);
    rig.ram.poke(pending_byte(9000), &[0b11]);
    rig.run(0, &[mapd(2, places(0).itts + 0x1000, 2), mapti(2, 0, 9000, 0)]);
    assert_eq!(rig.vm.pending_lpis(0), [9000]);
    assert_eq!(rig.ram.peek_byte(pending_byte(9000)), 0b10);
    assert_eq!(rig.collect(), pages([pending_byte(9000)]));
    rig.run_as_guest(0, &[mapti(2, 1, 9001, 0)]);
    assert_eq!(rig.vm.pending_lpis(0), [9000, 9001]);
    assert_eq!(rig.ring(0), [(pending_byte(9001) - RAM) / PAGE]);
    assert_eq!(rig.collect(), NONE);
}

#[test]
fn restoring_consumes_pending_bits_and_works_once() {
    let rig = mapped(Tracking::RingWithBitmap);
    rig.signal(0, 1, 3).unwrap();
    rig.save_pending().unwrap();
    rig.save_tables(0).unwrap();
    let registers = [gits::CBASER, gits::BASER, gits::BASER + 8, gits::CREADR, gits::CWRITER]
        .map(|r| (r, rig.its_read(0, r).unwrap()));
    rig.control(0, ctrl::ITS_RESET).unwrap();
    assert_eq!(rig.vm.pending_lpis(0), []);
    for (register, value) in registers {
        rig.its_write(0, register, value).unwrap();
    }
    rig.collect();
    rig.control(0, ctrl::ITS_RESTORE_TABLES).unwrap();
    assert_eq!(rig.ram.peek_byte(pending_byte(8195)), 0);
    assert_eq!(rig.collect(), pages([pending_byte(8195)]), "a restore dirties memory too");
    assert_eq!(rig.vm.pending_lpis(0), [8195]);
    assert_eq!(rig.control(0, ctrl::ITS_RESTORE_TABLES), Err(Errno::EEXIST));
    assert_eq!(rig.ring(0), []);
}

#[test]
fn a_vcpu_inside_an_ioctl_makes_devices_busy_and_nothing_else() {
    let mut rig = mapped(Tracking::RingWithBitmap);
    let vm = rig.vm.clone();
    let (vgic, its) = (rig.vgic.clone(), rig.its[0].clone());
    let running = rig.vcpus[0].enter().unwrap();
    let mut value = 0;
    for action in [ctrl::ITS_SAVE_TABLES, ctrl::ITS_RESTORE_TABLES, ctrl::ITS_RESET, 77] {
        assert_eq!(its.set_attr(group::CTRL, action, 0), Err(Errno::EBUSY));
    }
    assert_eq!(vgic.set_attr(group::CTRL, ctrl::SAVE_PENDING_TABLES, 0), Err(Errno::EBUSY));
    assert_eq!(its.get_attr(group::ITS_REGS, gits::CTLR, &mut value), Err(Errno::EBUSY));
    assert_eq!(its.set_attr(group::ITS_REGS, gits::CWRITER, 0), Err(Errno::EBUSY));
    assert_eq!(vgic.get_attr(group::REDIST_REGS, 0, &mut value), Err(Errno::EBUSY));
    assert_eq!(vgic.set_attr(group::REDIST_REGS, 0, 0), Err(Errno::EBUSY));
    let mut words = vec![0; WORDS];
    assert_eq!(vm.get_dirty_log(SLOT, &mut words), Ok(()));
    assert_eq!(vm.reset_dirty_rings(), Ok(0));
    drop(running);
    assert_eq!(its.set_attr(group::CTRL, ctrl::ITS_SAVE_TABLES, 0), Ok(()));
    assert_eq!(vgic.set_attr(group::CTRL, ctrl::SAVE_PENDING_TABLES, 0), Ok(()));
}

#[test]
fn manual_protect_keeps_the_bits_until_cleared() {
    let rig = mapped(Tracking::RingWithBitmap);
    rig.vm.enable_cap(&EnableCap::new(cap::MANUAL_DIRTY_LOG_PROTECT2, 1)).unwrap();
    rig.save_tables(0).unwrap();
    let expected = pages([places(0).devices, places(0).collections, places(0).itts]);
    assert_eq!(rig.collect(), expected);
    assert_eq!(rig.collect(), expected);
    let ones = vec![u64::MAX; WORDS];
    rig.vm.clear_dirty_log(SLOT, 0, u32::try_from(PAGES).unwrap(), &ones).unwrap();
    assert_eq!(rig.collect(), NONE);
}

#[test]
fn initially_set_presets_the_backup_bitmap_and_blinds_the_ring() {
    let mut rig = mapped(Tracking::RingWithBitmap);
    rig.vm.set_memslot_flags(SLOT, 0).unwrap();
    rig.vcpus[0].store(RAM, &[1]).unwrap();
    rig.vm.enable_cap(&EnableCap::new(cap::MANUAL_DIRTY_LOG_PROTECT2, 3)).unwrap();
    rig.vm.set_memslot_flags(SLOT, mem::LOG_DIRTY_PAGES).unwrap();
    assert_eq!(rig.collect().len() as u64, PAGES);
    rig.vcpus[0].store(RAM, &[2]).unwrap();
    assert_eq!(rig.ring(0), [], "the page was left writable");
    rig.vm.clear_dirty_log(SLOT, 0, 64, &[u64::MAX]).unwrap();
    rig.vcpus[0].store(RAM, &[3]).unwrap();
    assert_eq!(rig.ring(0), [0]);
}

#[test]
fn collecting_the_bitmap_protects_pages_that_the_guest_shares() {
    let mut rig = mapped(Tracking::RingWithBitmap);
    let shared = places(0).itts + 0x800;
    let page = (shared - RAM) / PAGE;
    rig.vcpus[0].store(shared, &[1]).unwrap();
    assert_eq!(rig.ring(0), [page]);
    rig.save_tables(0).unwrap();
    rig.vcpus[0].store(shared, &[2]).unwrap();
    assert_eq!(rig.ring(0), [page], "still writable: no new entry");
    assert!(rig.collect().contains(&page));
    rig.vcpus[0].store(shared, &[3]).unwrap();
    assert_eq!(rig.ring(0), [page, page], "protected again by the collection");
}

#[test]
fn bits_do_not_survive_their_bitmap() {
    let rig = mapped(Tracking::RingWithBitmap);
    rig.save_tables(0).unwrap();
    rig.vm.set_memslot_flags(SLOT, 0).unwrap();
    rig.vm.set_memslot_flags(SLOT, mem::LOG_DIRTY_PAGES).unwrap();
    assert_eq!(rig.collect(), NONE, "logging off and on");
    rig.save_tables(0).unwrap();
    gic_support::ram::delete(&rig.vm, SLOT).unwrap();
    rig.ram.add_to(&rig.vm, SLOT, mem::LOG_DIRTY_PAGES, RAM).unwrap();
    assert_eq!(rig.collect(), NONE, "deleted and made again");
    rig.save_tables(0).unwrap();
    assert_ne!(rig.collect(), NONE);
}

#[test]
fn a_message_from_the_guest_reaches_the_redistributor_it_names() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 2, 1);
    rig.run(0, &[mapc(0, 0), mapc(1, 1), mapd(1, places(0).itts, 3)]);
    rig.run(0, &[mapti(1, 0, 8192, 0), mapi(1, 0, 0), mapti(1, 1, 8193, 1), sync(0)]);
    rig.run_as_guest(0, &[int(1, 0), int(1, 1)]);
    assert_eq!((rig.vm.pending_lpis(0), rig.vm.pending_lpis(1)), (vec![8192], vec![8193]));
    rig.run(0, &[movi(1, 0, 1)]);
    assert_eq!(rig.vm.pending_lpis(1), [8192, 8193], "the pending state moves along");
    rig.run(0, &[movall(1, 0)]);
    assert_eq!(rig.vm.pending_lpis(0), [8192, 8193]);
    rig.run(0, &[clear(1, 0)]);
    assert_eq!(rig.vm.pending_lpis(0), [8193]);
    rig.run(0, &[mapc(1, 0), discard(1, 1)]);
    assert_eq!(rig.vm.pending_lpis(0), [], "the pending state goes with the event");
}

#[test]
fn the_configuration_table_enables_and_orders_lpis() {
    let mut rig = mapped(Tracking::RingWithBitmap);
    let byte = |lpi: u32| gic_support::LPI_CONFIG + u64::from(lpi - 8192);
    rig.ram.poke(byte(8193), &[0x80]);
    rig.ram.poke(byte(8194), &[0x41]);
    for event in 0..4 {
        rig.signal(0, 1, event).unwrap();
    }
    assert_eq!(rig.vm.acknowledge_lpi(0), Some(8192), "configuration is cached until it is invalidated");
    rig.run(0, &[inv(1, 1), invall(0)]);
    assert_eq!(rig.vm.acknowledge_lpi(0), Some(8194), "the most urgent first");
    assert_eq!(rig.vm.acknowledge_lpi(0), Some(8195));
    assert_eq!(rig.vm.acknowledge_lpi(0), None, "8193 is disabled");
    assert_eq!(rig.vm.pending_lpis(0), [8193]);
}
