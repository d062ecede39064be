//! What saving tables writes, and which pages that dirties.

mod gic_support;

use std::collections::BTreeSet;

use gic_support::{Rig, Tracking, commands::*, pages, places};
use ringmark_abi::{Errno, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_engine::{
    Rule,
    gic::{ItsRules, ctrl, gits},
};

/// Two devices, three events, one collection.
fn example(rig: &mut Rig) -> BTreeSet<u64> {
    let at = places(0);
    let (first, second) = (at.itts, at.itts + 0x1000);
    assert_eq!((first, second), (0x4043_0000, 0x4043_1000));
    rig.run(
        0,
        &[
            mapc(3, 0),
            mapd(5, first, 5),
            mapd(600, second, 5),
            mapti(5, 7, 8192, 3),
            mapti(600, 2, 8300, 3),
            mapti(600, 1, 8200, 3),
        ],
    );
    pages([at.devices + 5 * 8, at.devices + 600 * 8, at.collections, first, second])
}

#[test]
fn saving_writes_the_documented_entries_and_logs_their_pages() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let expected = example(&mut rig);
    assert_eq!(rig.collect(), BTreeSet::new(), "mapping writes nothing");
    rig.save_tables(0).unwrap();

    let at = places(0);
    assert_eq!(rig.entry(at.devices + 5 * 8), 0x84a6_0000_0808_6004);
    assert_eq!(rig.entry(at.devices + 600 * 8), 0x8000_0000_0808_6204);
    assert_eq!(rig.entry(at.collections), 0x8000_0000_0000_0003);
    assert_eq!(rig.entry(at.collections + 8), 0);
    assert_eq!(rig.entry(at.itts + 7 * 8), 0x2000_0003);
    assert_eq!(rig.entry(at.itts + 0x1000 + 8), 0x0001_0000_2008_0003);
    assert_eq!(rig.entry(at.itts + 0x1000 + 16), 0x206c_0003);

    assert_eq!(expected.len(), 5);
    assert_eq!(rig.collect(), expected);
    assert_eq!(rig.collect(), BTreeSet::new(), "collected once");
    assert_eq!(rig.ring(0), [], "a device ioctl has no vCPU and no ring");
    assert_eq!(rig.vm.stats().marks_without_vcpu, 0, "the kernel expects these writes and does not warn");
}

#[test]
fn saving_again_logs_the_same_pages_again() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let expected = example(&mut rig);
    for _ in 0..3 {
        rig.save_tables(0).unwrap();
        assert_eq!(rig.collect(), expected);
    }
}

#[test]
fn without_a_ring_the_same_pages_are_in_the_stand_alone_bitmap() {
    let mut rig = Rig::programmed(Tracking::Bitmap, 1, 1);
    let expected = example(&mut rig);
    rig.save_tables(0).unwrap();
    assert_eq!(rig.collect(), expected);
}

#[test]
fn a_ring_without_backup_bitmap_loses_the_tables_silently() {
    let mut rig = Rig::programmed(Tracking::Ring, 1, 1);
    example(&mut rig);
    let before = rig.ram.contents();
    assert_eq!(rig.save_tables(0), Ok(()));
    assert_ne!(rig.ram.contents(), before, "memory changed");
    assert_eq!(rig.ring(0), []);
    let mut words = vec![0; 64];
    assert_eq!(rig.vm.get_dirty_log(gic_support::SLOT, &mut words), Err(Errno::ENXIO));
    assert!(rig.vm.stats().dropped_marks > 0);
}

#[test]
fn collecting_before_saving_misses_the_tables() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let tables = example(&mut rig);
    let before = rig.ram.contents();
    let collected = rig.collect();
    rig.save_tables(0).unwrap();
    let after = rig.ram.contents();
    let changed: BTreeSet<u64> = (0..gic_support::PAGES)
        .filter(|p| {
            let page = usize::try_from(p * gic_support::PAGE).unwrap()
                ..usize::try_from((p + 1) * gic_support::PAGE).unwrap();
            before[page.clone()] != after[page]
        })
        .collect();
    assert_eq!(changed, tables);
    assert_eq!(changed.difference(&collected).count(), 5, "every table page escaped the wrong order");
    assert!(changed.is_subset(&rig.collect()), "the right order has them all");
}

#[test]
fn strict_mode_names_the_tables_that_were_collected_too_early() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    rig.vm.set_strict(true);
    let tables = example(&mut rig);
    rig.collect();
    rig.save_tables(0).unwrap();
    rig.vm.declare_complete();
    let named: BTreeSet<u64> = rig
        .vm
        .take_violations()
        .into_iter()
        .inspect(|v| assert_eq!(v.rule, Rule::CollectedTooEarly))
        .map(|v| v.offset)
        .collect();
    assert_eq!(named, tables);
    rig.save_tables(0).unwrap();
    rig.collect();
    rig.vm.declare_complete();
    assert_eq!(rig.vm.violations(), [], "saved first, collected last");
}

#[test]
fn an_indirect_device_table_is_written_through_its_first_level() {
    let mut rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    rig.place();
    rig.program_redistributors();
    rig.program_its(0, 1 << 62);
    rig.its_write(0, gits::CTLR, 1).unwrap();
    let at = places(0);
    let second_level = at.itts + 0x2_0000;
    // Device 9000 is entry 808 of the second page of the second level.
    rig.run(0, &[mapc(0, 0), mapd(9000, at.itts, 4)]);
    rig.save_tables(0).unwrap();
    assert_eq!(rig.entry(second_level + 808 * 8), 0, "without a first level entry there is no such device");
    rig.ram.poke(at.devices + 8, &(1 << 63 | second_level).to_le_bytes());
    rig.run(0, &[mapd(9000, at.itts, 4), mapti(9000, 3, 9000, 0)]);
    rig.collect();
    rig.save_tables(0).unwrap();
    assert_eq!(rig.entry(second_level + 808 * 8), 1 << 63 | (at.itts >> 8) << 5 | 3);
    assert_eq!(rig.collect(), pages([second_level + 808 * 8, at.itts, at.collections]));
}

#[test]
fn long_distances_are_cut_and_found_again() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let at = places(0);
    // 64 KiB of direct table hold 8192 devices; take more pages.
    rig.its_write(0, gits::CTLR, 0).unwrap();
    rig.its_write(0, gits::BASER, 1 << 63 | (at.itts + 0x4_0000) | 7).unwrap();
    rig.its_write(0, gits::CTLR, 1).unwrap();
    rig.run(0, &[mapc(0, 0), mapd(3, at.itts, 1), mapd(60_000, at.itts + 0x1000, 1)]);
    rig.run(0, &[mapti(3, 1, 8192, 0), mapti(60_000, 0, 8193, 0)]);
    rig.save_tables(0).unwrap();
    assert_eq!(rig.entry(at.itts + 0x4_0000 + 3 * 8) >> 49 & 0x3fff, 0x3fff);
    let (base0, base1) = (rig.its_read(0, gits::BASER).unwrap(), rig.its_read(0, gits::BASER + 8).unwrap());
    rig.control(0, ctrl::ITS_RESET).unwrap();
    rig.program_its(0, 0);
    rig.its_write(0, gits::BASER, base0).unwrap();
    rig.its_write(0, gits::BASER + 8, base1).unwrap();
    rig.control(0, ctrl::ITS_RESTORE_TABLES).unwrap();
    rig.its_write(0, gits::CTLR, 1).unwrap();
    assert_eq!(rig.signal(0, 60_000, 0), Ok(1));
    assert_eq!(rig.vm.pending_lpis(0), [8193]);
}

#[test]
fn a_save_that_fails_at_the_collections_has_logged_the_devices() {
    for rules in [ItsRules::linux_6_12(), ItsRules::linux_7_2()] {
        let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
        rig.vm.set_its_rules(rules);
        let mut expected = example(&mut rig);
        rig.its_write(0, gits::CTLR, 0).unwrap();
        rig.its_write(0, gits::BASER + 8, 1 << 63 | 0x9000_0000).unwrap();
        assert_eq!(rig.save_tables(0), Err(Errno::EFAULT));
        expected.retain(|&page| page != (places(0).collections - gic_support::RAM) / gic_support::PAGE);
        assert_eq!(rig.collect(), expected, "what was written before the failure");
    }
}

#[test]
fn a_device_without_an_entry_fails_the_save_or_is_left_out() {
    for rules in [ItsRules::linux_6_12(), ItsRules::linux_7_2()] {
        let mut rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
        rig.vm.set_its_rules(rules);
        rig.place();
        rig.program_redistributors();
        rig.program_its(0, 1 << 62);
        rig.its_write(0, gits::CTLR, 1).unwrap();
        let (at, second_level) = (places(0), places(0).itts + 0x2_0000);
        rig.ram.poke(at.devices, &(1 << 63 | second_level).to_le_bytes());
        rig.ram.poke(at.devices + 8, &(1 << 63 | (second_level + 0x1_0000)).to_le_bytes());
        rig.run(0, &[mapc(0, 0), mapd(1, at.itts, 1), mapd(8192, at.itts, 1), mapd(2, at.itts, 1)]);
        // The guest takes the second page of the table away.
        rig.ram.poke(at.devices + 8, &0u64.to_le_bytes());
        let saved = rig.save_tables(0);
        if rules.save_skips_unaddressable {
            assert_eq!(saved, Ok(()));
            assert_eq!(rig.entry(second_level + 16) >> 49 & 0x3fff, 0, "device 2 is the last that is saved");
        } else {
            assert_eq!(saved, Err(Errno::EINVAL));
            assert_eq!(rig.entry(second_level + 16) >> 49 & 0x3fff, 8190);
        }
        assert_eq!(rig.entry(second_level + 8) >> 49 & 0x3fff, 1);
    }
}

#[test]
fn an_event_without_a_collection_leaves_a_zero_entry() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    example(&mut rig);
    rig.save_tables(0).unwrap();
    rig.run(0, &[unmapc(3)]);
    assert_eq!(rig.signal(0, 5, 7), Ok(0));
    rig.save_tables(0).unwrap();
    assert_eq!(rig.entry(places(0).itts + 7 * 8), 0);
    assert_eq!(rig.entry(places(0).collections), 0);
    rig.run(0, &[mapc(3, 0)]);
    assert_eq!(rig.signal(0, 5, 7), Ok(0), "mapping the collection again does not bring its events back");
}

#[test]
fn an_event_may_be_mapped_before_its_collection() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 2, 1);
    rig.run(0, &[mapd(1, places(0).itts, 2), mapti(1, 0, 8192, 9)]);
    assert_eq!(rig.signal(0, 1, 0), Ok(0));
    rig.save_tables(0).unwrap();
    assert_eq!(rig.entry(places(0).collections), 1 << 63 | 0xffff_ffff << 16 | 9);
    rig.run(0, &[mapc(9, 1)]);
    assert_eq!(rig.signal(0, 1, 0), Ok(1));
    assert_eq!(rig.vm.pending_lpis(1), [8192]);
}

#[test]
fn a_table_in_a_deleted_memslot_fails_the_save() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let elsewhere = gic_support::ram::Ram::new(0x1_0000);
    let slot = SlotId::new(0, 1);
    elsewhere.add_to(&rig.vm, slot, ringmark_abi::mem::LOG_DIRTY_PAGES, 0x6000_0000).unwrap();
    rig.run(0, &[mapc(0, 0), mapd(1, 0x6000_0000, 4), mapti(1, 1, 8192, 0)]);
    rig.save_tables(0).unwrap();
    let mut words = [0];
    rig.vm.get_dirty_log(slot, &mut words).unwrap();
    assert_eq!(words, [1]);
    gic_support::ram::delete(&rig.vm, slot).unwrap();
    assert_eq!(rig.save_tables(0), Err(Errno::EFAULT));
}

#[test]
fn nothing_configured_saves_nothing() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    let before = rig.ram.contents();
    for action in [1, 2, 4] {
        assert_eq!(rig.control(0, action), Ok(()), "even before the ITS has an address");
    }
    assert_eq!(rig.ram.contents(), before);
    assert_eq!(rig.collect(), BTreeSet::new());
}
