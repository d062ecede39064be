//! What the interrupt controller refuses, and with which errno; register defaults.

mod gic_support;

use gic_support::{
    DISTRIBUTOR, LPI_CONFIG, PAGE, RAM, REDISTRIBUTORS, Rig, Tracking, commands::*, pending_table, places,
};
use ringmark_abi::Errno;
use ringmark_engine::{
    Profile, System,
    gic::{ItsRules, Msi, addr, ctrl, device_type, gicr, gits, group},
};

fn both_rules(test: impl Fn(ItsRules)) {
    for rules in [ItsRules::linux_6_12(), ItsRules::linux_7_2()] {
        test(rules);
    }
}

#[test]
fn devices_are_created_by_type() {
    let vm = System::new(Profile::arm64()).create_vm();
    for other in [0, 1, 5, 6, 9, u32::MAX] {
        assert_eq!(vm.create_device(other).err(), Some(Errno::ENODEV));
    }
    assert!(vm.create_device(device_type::ARM_VGIC_V3).is_ok());
    assert_eq!(vm.create_device(device_type::ARM_VGIC_V3).err(), Some(Errno::EEXIST));
    for _ in 0..3 {
        assert!(vm.create_device(device_type::ARM_VGIC_ITS).is_ok(), "as many ITSs as one likes");
    }
    let x86 = System::new(Profile::x86()).create_vm();
    assert_eq!(x86.create_device(device_type::ARM_VGIC_V3).err(), Some(Errno::ENODEV));
    assert_eq!(x86.create_device(device_type::ARM_VGIC_ITS).err(), Some(Errno::ENODEV));
}

#[test]
fn a_vgic_comes_before_the_first_run() {
    let vm = System::new(Profile::arm64()).create_vm();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let running = vcpu.enter().unwrap();
    assert_eq!(vm.create_device(device_type::ARM_VGIC_V3).err(), Some(Errno::EBUSY));
    drop(running);
    assert_eq!(vm.create_device(device_type::ARM_VGIC_V3).err(), Some(Errno::EBUSY));
    assert!(vm.create_device(device_type::ARM_VGIC_ITS).is_ok());
}

#[test]
fn addresses_are_checked() {
    let rig = Rig::new(Tracking::RingWithBitmap, 2, 1);
    let set = |address| rig.its[0].set_attr(group::ADDR, addr::ITS, address);
    let mut value = 0;
    rig.its[0].get_attr(group::ADDR, addr::ITS, &mut value).unwrap();
    assert_eq!(value, addr::UNDEFINED);
    assert_eq!(set(0x1000), Err(Errno::EINVAL));
    assert_eq!(set(!0xffff), Err(Errno::EINVAL), "wraps");
    assert_eq!(set(1 << 40), Err(Errno::E2BIG));
    assert_eq!(set((1 << 40) - 0x1_0000), Err(Errno::E2BIG));
    for wrong in [0, 2, 3, 5, 99] {
        assert_eq!(rig.its[0].set_attr(group::ADDR, wrong, 0), Err(Errno::ENODEV));
        assert_eq!(rig.its[0].get_attr(group::ADDR, wrong, &mut value), Err(Errno::ENODEV));
    }
    assert_eq!(set(0x0a00_0000), Ok(()));
    assert_eq!(set(0x0a00_0000), Err(Errno::EEXIST));
    assert_eq!(set(0x1000), Err(Errno::EEXIST), "set already goes before misaligned");
    rig.its[0].get_attr(group::ADDR, addr::ITS, &mut value).unwrap();
    assert_eq!(value, 0x0a00_0000);

    let set = |kind, address| rig.vgic.set_attr(group::ADDR, kind, address);
    assert_eq!(set(addr::V3_DIST, 0x1000), Err(Errno::EINVAL));
    assert_eq!(set(addr::V3_DIST, 1 << 40), Err(Errno::E2BIG));
    assert_eq!(set(addr::V3_DIST, DISTRIBUTOR), Ok(()));
    assert_eq!(set(addr::V3_DIST, DISTRIBUTOR), Err(Errno::EEXIST));
    assert_eq!(set(addr::V3_REDIST, DISTRIBUTOR), Err(Errno::EINVAL), "on the distributor");
    assert_eq!(set(addr::V3_REDIST, REDISTRIBUTORS + 0x1000), Err(Errno::EINVAL));
    assert_eq!(set(addr::V3_REDIST, REDISTRIBUTORS), Ok(()));
    assert_eq!(set(addr::V3_REDIST, REDISTRIBUTORS), Err(Errno::EEXIST));
    assert_eq!(set(0, 0), Err(Errno::ENXIO), "VGICv2");
    rig.vgic.get_attr(group::ADDR, addr::V3_REDIST, &mut value).unwrap();
    assert_eq!(value, REDISTRIBUTORS);
}

#[test]
fn redistributor_regions_come_one_after_another() {
    let rig = Rig::new(Tracking::RingWithBitmap, 2, 0);
    let set = |packed| rig.vgic.set_attr(group::ADDR, addr::V3_REDIST_REGION, packed);
    assert_eq!(set(REDISTRIBUTORS), Err(Errno::EINVAL), "no count");
    assert_eq!(set(1 << 52 | REDISTRIBUTORS | 1 << 12), Err(Errno::EINVAL), "flags");
    assert_eq!(set(1 << 52 | REDISTRIBUTORS | 1), Err(Errno::EINVAL), "index 0 is first");
    assert_eq!(set(1 << 52 | REDISTRIBUTORS), Ok(()));
    assert_eq!(set(1 << 52 | REDISTRIBUTORS | 1), Err(Errno::EINVAL), "on the first one");
    assert_eq!(set(1 << 52 | (REDISTRIBUTORS + 0x2_0000) | 1), Ok(()));
    assert_eq!(
        rig.vgic.set_attr(group::ADDR, addr::V3_REDIST, 0x0900_0000),
        Err(Errno::EINVAL),
        "do not mix"
    );
    let mut value = 1;
    rig.vgic.get_attr(group::ADDR, addr::V3_REDIST_REGION, &mut value).unwrap();
    assert_eq!(value, 1 << 52 | (REDISTRIBUTORS + 0x2_0000) | 1);
    value = 2;
    assert_eq!(rig.vgic.get_attr(group::ADDR, addr::V3_REDIST_REGION, &mut value), Err(Errno::ENOENT));
}

#[test]
fn its_registers_are_checked() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    assert_eq!(rig.its_read(0, gits::CTLR), Err(Errno::ENXIO), "no address yet");
    assert_eq!(rig.its_write(0, gits::CTLR, 0), Err(Errno::ENXIO));
    assert_eq!(rig.its_read(0, gits::CBASER + 4), Err(Errno::EINVAL), "alignment goes first");
    rig.place();
    for (offset, result) in [
        (0x1, Err(Errno::EINVAL)),
        (gits::IIDR + 2, Err(Errno::EINVAL)),
        (gits::CBASER + 4, Err(Errno::EINVAL)),
        (gits::TYPER + 4, Err(Errno::EINVAL)),
        (0x10, Err(Errno::ENXIO)),
        (0x98, Err(Errno::ENXIO)),
        (gits::BASER + 0x40, Err(Errno::ENXIO)),
        (gits::TRANSLATER, Err(Errno::ENXIO)),
        (!7, Err(Errno::ENXIO)),
        (gits::PIDR4 + 4, Ok(())),
    ] {
        assert_eq!(rig.its_read(0, offset).map(drop), result, "{offset:#x}");
        assert_eq!(rig.its[0].has_attr(group::ITS_REGS, offset), result, "{offset:#x}");
    }
    assert_eq!(rig.its_write(0, gits::IIDR, 0x4b00_143b), Err(Errno::EINVAL), "revision 1");
    assert_eq!(rig.its_write(0, gits::IIDR, 0x4b00_043b), Ok(()));
    assert_eq!(rig.its_write(0, gits::CREADR, 0x1000), Err(Errno::EINVAL), "a queue of one page");
    assert_eq!(rig.its_write(0, gits::CREADR, 0xfe0), Ok(()));
    rig.program_its(0, 0);
    rig.its_write(0, gits::CTLR, 1).unwrap();
    assert_eq!(rig.its_write(0, gits::CREADR, 0), Err(Errno::EBUSY));
}

#[test]
fn registers_start_as_a_kernels_do() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    rig.place();
    for (register, value) in [
        (gits::CTLR, 0x8000_0000),
        (gits::IIDR, 0x4b00_043b),
        (gits::TYPER, 0x1_ef71),
        (gits::CBASER, 0),
        (gits::BASER, 0x1907_0000_0000_0600),
        (gits::BASER + 8, 0x1c07_0000_0000_0600),
        (gits::BASER + 16, 0),
        (gits::BASER + 0x38, 0),
    ] {
        assert_eq!(rig.its_read(0, register), Ok(value), "{register:#x}");
    }
}

#[test]
fn registers_keep_what_the_implementation_has() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    rig.place();
    rig.its_write(0, gits::BASER, u64::MAX).unwrap();
    let written = rig.its_read(0, gits::BASER).unwrap();
    assert_eq!(written >> 56 & 7, 1, "type");
    assert_eq!(written >> 48 & 0x1f, 7, "entry size");
    assert_eq!(written >> 8 & 3, 2, "64 KiB pages");
    assert_eq!(written >> 62, 3, "valid and indirect");
    rig.its_write(0, gits::BASER + 8, u64::MAX).unwrap();
    assert_eq!(rig.its_read(0, gits::BASER + 8).unwrap() >> 62, 2, "collections have one level");
    rig.its_write(0, gits::BASER + 16, u64::MAX).unwrap();
    assert_eq!(rig.its_read(0, gits::BASER + 16), Ok(0));
    rig.its_write(0, gits::CBASER, 1 << 63 | RAM | 0xf000).unwrap();
    assert_eq!(rig.its_read(0, gits::CBASER).unwrap() & 0xf_ffff_ffff_f000, RAM, "64 KiB aligned");
}

#[test]
fn an_its_is_enabled_only_when_it_is_programmed() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    rig.place();
    for missing in [gits::CBASER, gits::BASER, gits::BASER + 8] {
        rig.program_its(0, 0);
        let value = rig.its_read(0, missing).unwrap();
        rig.its_write(0, missing, value & !(1 << 63)).unwrap();
        assert_eq!(rig.its_write(0, gits::CTLR, 1), Ok(()), "refused without a word");
        assert_eq!(rig.its_read(0, gits::CTLR), Ok(0x8000_0000));
    }
    rig.program_its(0, 0);
    rig.its_write(0, gits::CTLR, 1).unwrap();
    assert_eq!(rig.its_read(0, gits::CTLR), Ok(0x8000_0001));
    for fixed in [gits::CBASER, gits::BASER, gits::BASER + 8] {
        let before = rig.its_read(0, fixed);
        rig.its_write(0, fixed, 0).unwrap();
        assert_eq!(rig.its_read(0, fixed), before, "fixed while enabled");
    }
}

#[test]
fn the_queue_waits_for_the_its() {
    let mut rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    rig.place();
    rig.program_its(0, 0);
    let end = rig.queue(0, &[mapc(0, 0), mapd(1, places(0).itts, 1)]);
    rig.its_write(0, gits::CWRITER, end).unwrap();
    assert_eq!(rig.its_read(0, gits::CREADR), Ok(0));
    assert_eq!(rig.its_read(0, gits::CTLR), Ok(0), "not quiescent");
    rig.its_write(0, gits::CTLR, 1).unwrap();
    assert_eq!(rig.its_read(0, gits::CREADR), Ok(end));
    rig.its_write(0, gits::CWRITER, 0x1_0000).unwrap();
    assert_eq!(rig.its_read(0, gits::CWRITER), Ok(end), "beyond the queue is ignored");
    rig.its_write(0, gits::CTLR, 0).unwrap();
    rig.its_write(0, gits::CBASER, 1 << 63 | places(0).queue).unwrap();
    assert_eq!((rig.its_read(0, gits::CREADR), rig.its_read(0, gits::CWRITER)), (Ok(0), Ok(0)));
}

#[test]
fn resetting_keeps_addresses_only() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 1), mapti(1, 0, 8192, 0)]);
    rig.signal(0, 1, 0).unwrap();
    rig.control(0, ctrl::ITS_RESET).unwrap();
    assert_eq!(rig.its_read(0, gits::CTLR), Ok(0x8000_0000));
    for zero in [gits::CBASER, gits::CREADR, gits::CWRITER] {
        assert_eq!(rig.its_read(0, zero), Ok(0));
    }
    for (table, address) in [(gits::BASER, places(0).devices), (gits::BASER + 8, places(0).collections)] {
        let value = rig.its_read(0, table).unwrap();
        assert_eq!((value >> 63, value & 0xffff_ffff_0000), (0, address));
    }
    assert_eq!(rig.vm.pending_lpis(0), []);
    let mut value = 0;
    rig.its[0].get_attr(group::ADDR, addr::ITS, &mut value).unwrap();
    assert_eq!(value, places(0).frame);
    assert_eq!(rig.save_tables(0), Ok(()));
    assert_eq!(rig.entry(places(0).devices + 8), 0);
}

#[test]
fn unknown_attributes_differ_by_kernel() {
    both_rules(|rules| {
        let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
        rig.vm.set_its_rules(rules);
        let unknown = if rules.unknown_ctrl_refused { Err(Errno::ENXIO) } else { Ok(()) };
        assert_eq!(rig.control(0, 99), unknown);
        assert_eq!(rig.control(0, ctrl::SAVE_PENDING_TABLES), unknown);
        assert_eq!(rig.control(0, ctrl::INIT), Ok(()));
        assert_eq!(rig.its[0].has_attr(group::CTRL, 99), Err(Errno::ENXIO));
        for action in [ctrl::INIT, ctrl::ITS_SAVE_TABLES, ctrl::ITS_RESTORE_TABLES, ctrl::ITS_RESET] {
            assert_eq!(rig.its[0].has_attr(group::CTRL, action), Ok(()));
        }
        assert_eq!(rig.vgic.set_attr(group::CTRL, 99, 0), Err(Errno::ENXIO));
        assert_eq!(rig.vgic.has_attr(group::CTRL, ctrl::SAVE_PENDING_TABLES), Ok(()));
        assert_eq!(rig.vgic.has_attr(group::CTRL, ctrl::ITS_SAVE_TABLES), Err(Errno::ENXIO));
        let mut value = 0;
        for device in [&rig.vgic, &rig.its[0]] {
            assert_eq!(device.set_attr(42, 0, 0), Err(Errno::ENXIO));
            assert_eq!(device.get_attr(42, 0, &mut value), Err(Errno::ENXIO));
            assert_eq!(device.get_attr(group::CTRL, 0, &mut value), Err(Errno::ENXIO));
            assert_eq!(device.has_attr(42, 0), Err(Errno::ENXIO));
        }
    });
}

#[test]
fn pending_tables_are_saved_after_init() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    assert_eq!(rig.save_pending(), Err(Errno::ENXIO));
    rig.vgic.set_attr(group::CTRL, ctrl::INIT, 0).unwrap();
    assert_eq!(rig.save_pending(), Ok(()));
    assert_eq!(rig.vgic.set_attr(group::CTRL, ctrl::INIT, 0), Ok(()), "again");
}

#[test]
fn redistributor_registers_are_checked() {
    let rig = Rig::new(Tracking::RingWithBitmap, 2, 1);
    let mut value = 0;
    assert_eq!(rig.vgic.get_attr(group::REDIST_REGS, 0, &mut value), Err(Errno::EBUSY), "before INIT");
    rig.place();
    assert_eq!(
        rig.vgic.get_attr(group::REDIST_REGS, 2 << 32, &mut value),
        Err(Errno::EINVAL),
        "no such vCPU"
    );
    assert_eq!(rig.vgic.set_attr(group::REDIST_REGS, 0x10 << 32, 0), Err(Errno::EINVAL), "no such affinity");
    assert_eq!(rig.vgic.get_attr(group::REDIST_REGS, 0x20, &mut value), Err(Errno::ENXIO));
    assert_eq!(rig.vgic.get_attr(group::REDIST_REGS, gicr::PROPBASER + 2, &mut value), Err(Errno::ENXIO));
    assert_eq!(rig.vgic.has_attr(group::REDIST_REGS, 1 << 32 | gicr::PENDBASER), Ok(()));
    assert_eq!(rig.vgic.has_attr(group::REDIST_REGS, 7 << 32), Err(Errno::EINVAL));
    rig.program_redistributors();
    let read = |attr| {
        let mut value = 0xffff_ffff_0000_0000;
        rig.vgic.get_attr(group::REDIST_REGS, attr, &mut value).unwrap();
        assert_eq!(value >> 32, 0xffff_ffff, "32 bits are copied");
        value & 0xffff_ffff
    };
    assert_eq!(read(gicr::CTLR), 7);
    assert_eq!(read(1 << 32 | gicr::PENDBASER) & !0xfff, pending_table(1));
    assert_eq!(read(gicr::PROPBASER), LPI_CONFIG | 15 | 3 << 7, "non-cacheable becomes write-back");
    assert_eq!(read(gicr::TYPER), 1, "LPIs, vCPU 0, not the last");
    assert_eq!(read(1 << 32 | gicr::TYPER), 1 | 1 << 4 | 1 << 8);
    assert_eq!(read(1 << 32 | (gicr::TYPER + 4)), 1, "affinity");
    rig.gicr_write(0, gicr::PROPBASER, 0);
    rig.gicr_write(0, gicr::PENDBASER, 0);
    assert_eq!(read(gicr::PENDBASER) & !0xfff, pending_table(0), "fixed while LPIs are enabled");
    assert_eq!(read(gicr::PROPBASER), LPI_CONFIG | 15 | 3 << 7);
}

#[test]
fn enabling_lpis_reads_the_pending_table_unless_it_is_zero() {
    for zero in [false, true] {
        let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
        rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 1), mapti(1, 0, 8192, 0)]);
        rig.vgic.set_attr(group::REDIST_REGS, 0, 0).unwrap();
        rig.gicr_write(0, gicr::PENDBASER, pending_table(0) | u64::from(zero) << 62);
        rig.ram.poke(pending_table(0) + 1024, &[1]);
        rig.collect();
        rig.vgic.set_attr(group::REDIST_REGS, 0, 1).unwrap();
        assert_eq!(rig.vm.pending_lpis(0).is_empty(), zero);
        assert_eq!(rig.ram.peek_byte(pending_table(0) + 1024), 1, "read, not consumed");
        assert!(rig.collect().is_empty());
    }
}

#[test]
fn messages_are_refused_for_a_reason() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 0);
    assert_eq!(rig.signal(0, 1, 0), Err(Errno::ENODEV), "no ITS");
    let vm = System::new(Profile::arm64()).create_vm();
    let msi = Msi { address: 0, data: 0, devid: Some(1) };
    assert_eq!(vm.signal_msi(&msi), Err(Errno::EINVAL), "no VGIC");

    let mut rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    rig.place();
    assert_eq!(rig.signal(0, 1, 0), Err(Errno::EBUSY), "not enabled");
    rig.program_redistributors();
    rig.program_its(0, 0);
    rig.its_write(0, gits::CTLR, 1).unwrap();
    let doorbell = places(0).frame + gits::TRANSLATER;
    assert_eq!(rig.vm.signal_msi(&Msi { address: doorbell, data: 0, devid: None }), Err(Errno::EINVAL));
    assert_eq!(rig.vm.signal_msi(&Msi { address: RAM, data: 0, devid: Some(1) }), Err(Errno::EINVAL));
    assert_eq!(rig.signal(0, 1, 0), Ok(0), "not mapped");
    rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 1), mapti(1, 0, 8192, 0)]);
    assert_eq!(rig.signal(0, 1, 0), Ok(1));
    assert_eq!(rig.signal(0, 1, 1), Ok(0));
    rig.vgic.set_attr(group::REDIST_REGS, 0, 0).unwrap();
    assert_eq!(rig.signal(0, 1, 0), Err(Errno::EBUSY), "LPIs disabled at the target");
}

#[test]
fn commands_out_of_range_do_nothing() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let itt = places(0).itts;
    rig.run(
        0,
        &[
            mapc(0, 0),
            mapc(1, 7),
            mapc(9000, 0),
            mapd(1, itt, 2),
            mapd(8192, itt, 2),
            mapd(0x1_0000, itt, 2),
            mapd(2, itt, 17),
            mapti(1, 4, 8192, 0),
            mapti(1, 0, 8191, 0),
            mapti(1, 0, 0x1_0000, 0),
            mapti(3, 0, 8192, 0),
            mapti(1, 0, 8192, 9000),
            mapi(1, 1, 0),
            [0x77, 0, 0, 0],
            movi(1, 0, 0),
            discard(1, 0),
            clear(1, 0),
        ],
    );
    rig.save_tables(0).unwrap();
    assert_eq!(
        rig.entry(places(0).devices + 8),
        1 << 63 | itt >> 8 << 5 | 1,
        "device 1 alone, without events"
    );
    assert_eq!(rig.entry(places(0).devices + 16), 0);
    assert_eq!(rig.entry(places(0).collections), 1 << 63);
    assert_eq!(rig.entry(places(0).collections + 8), 0);
    assert_eq!(rig.entry(itt), 0);
}

#[test]
fn changing_a_table_forgets_by_the_kernels_rule() {
    both_rules(|rules| {
        let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
        rig.vm.set_its_rules(rules);
        rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 1), mapti(1, 0, 8192, 0)]);
        rig.its_write(0, gits::CTLR, 0).unwrap();
        rig.its_write(0, gits::BASER, 1 << 63 | (places(0).devices + 0x1_0000)).unwrap();
        rig.its_write(0, gits::CTLR, 1).unwrap();
        let kept = Ok(u32::from(!rules.any_table_change_forgets));
        assert_eq!(rig.signal(0, 1, 0), kept);
        rig.its_write(0, gits::CTLR, 0).unwrap();
        rig.its_write(0, gits::BASER, places(0).devices).unwrap();
        rig.its_write(0, gits::BASER, 1 << 63 | places(0).devices).unwrap();
        rig.its_write(0, gits::CTLR, 1).unwrap();
        assert_eq!(rig.signal(0, 1, 0), Ok(0), "clearing the valid bit always does");
    });
}

/// A programmed, disabled, empty ITS over tables that hold device 1 with event 0 in collection 0, all of it valid.
fn restorable() -> Rig {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    rig.run(0, &[mapc(0, 0), mapd(1, places(0).itts, 2), mapti(1, 0, 8192, 0)]);
    rig.save_tables(0).expect("a step that works");
    rig.control(0, ctrl::ITS_RESET).expect("a step that works");
    rig.program_its(0, 0);
    rig
}

#[test]
fn inconsistent_tables_are_refused_whole() {
    let at = places(0);
    let dte = 1 << 63 | at.itts >> 8 << 5 | 1;
    let cases: &[(u64, u64, Errno, &str)] = &[
        (at.itts, 8191 << 16, Errno::EINVAL, "not an LPI"),
        (at.itts, 0x1_0000 << 16, Errno::EINVAL, "beyond the LPIs"),
        (at.itts, 8192 << 16 | 1, Errno::EINVAL, "unknown collection"),
        (at.itts, 4 << 48 | 8192 << 16, Errno::EINVAL, "the next event is beyond the table"),
        (at.collections, 1 << 63 | 5 << 16, Errno::EINVAL, "unknown vCPU"),
        (at.collections, 1 << 63 | 9000, Errno::EINVAL, "a collection beyond the table"),
        (at.collections + 8, 1 << 63, Errno::EEXIST, "a collection twice"),
        (at.devices + 8, dte | 16, Errno::EINVAL, "17 EventID bits"),
        (at.devices + 8, 1 << 63 | 0x9000_0000 >> 8 << 5 | 1, Errno::EFAULT, "a table outside memory"),
    ];
    for &(gpa, entry, errno, what) in cases {
        let rig = restorable();
        rig.ram.poke(gpa, &entry.to_le_bytes());
        assert_eq!(rig.control(0, ctrl::ITS_RESTORE_TABLES), Err(errno), "{what}");
        rig.its_write(0, gits::CTLR, 1).unwrap();
        assert_eq!(rig.signal(0, 1, 0), Ok(0), "{what}: nothing is left of it");
        rig.its_write(0, gits::CTLR, 0).unwrap();
        let good = restorable();
        assert_eq!(good.control(0, ctrl::ITS_RESTORE_TABLES), Ok(()), "the check can pass");
        good.its_write(0, gits::CTLR, 1).unwrap();
        assert_eq!(good.signal(0, 1, 0), Ok(1));
    }
}

#[test]
fn tables_over_tables_do_not_keep_a_restore_busy() {
    let rig = Rig::programmed(Tracking::RingWithBitmap, 1, 1);
    let at = places(0);
    rig.its_write(0, gits::CTLR, 0).unwrap();
    // 8192 devices, each with 2^16 events in one and the same half MiB of zeros.
    for device in 0..8192u64 {
        rig.ram.poke(at.devices + device * 8, &(1u64 << 63 | 1 << 49 | at.itts >> 8 << 5 | 15).to_le_bytes());
    }
    assert_eq!(rig.control(0, ctrl::ITS_RESTORE_TABLES), Err(Errno::EINVAL));
}

#[test]
fn a_page_of_the_frames_is_not_memory() {
    let mut rig = Rig::programmed(Tracking::RingWithBitmap, 2, 1);
    let frame = places(0).frame;
    let mut word = [0; 8];
    rig.vcpus[0].load(frame + gits::TYPER, &mut word).unwrap();
    assert_eq!(u64::from_le_bytes(word), 0x1_ef71);
    let mut half = [0; 4];
    rig.vcpus[0].load(frame + gits::TYPER + 4, &mut half).unwrap();
    assert_eq!(half, [0; 4]);
    let mut byte = [1];
    rig.vcpus[0].load(frame + gits::TYPER, &mut byte).unwrap();
    assert_eq!(byte, [0], "too narrow an access reads zero");
    rig.vcpus[1].load(REDISTRIBUTORS + 0x2_0000 + gicr::TYPER, &mut word).unwrap();
    assert_eq!(u64::from_le_bytes(word), 1 << 32 | 1 << 8 | 1 << 4 | 1);
    rig.vcpus[0].load(DISTRIBUTOR, &mut half).unwrap();
    rig.vcpus[0].store(frame + gits::CTLR, &[0; 4]).unwrap();
    assert_eq!(rig.its_read(0, gits::CTLR), Ok(0x8000_0000));
    rig.vcpus[0].store(frame + gits::IIDR, &0x4b00_143bu32.to_le_bytes()).unwrap();
    assert_eq!(rig.its_read(0, gits::IIDR), Ok(0x4b00_043b), "read-only to the guest");
    rig.vcpus[0].store(frame + gits::BASER + 4, &0x8000_0000u32.to_le_bytes()).unwrap();
    assert_eq!(rig.its_read(0, gits::BASER).unwrap() >> 63, 1, "halves work");
    assert_eq!(rig.ring(0), []);
    assert!(rig.vcpus[0].store(REDISTRIBUTORS + 0x4_0000, &[0; 4]).is_err(), "past the last redistributor");
    assert_eq!(PAGE, 4096);
}

#[test]
fn a_dead_vm_has_dead_devices() {
    let rig = Rig::new(Tracking::RingWithBitmap, 1, 1);
    rig.vm.kill();
    let mut value = 0;
    for device in [&rig.vgic, &rig.its[0]] {
        assert_eq!(device.set_attr(group::CTRL, ctrl::INIT, 0), Err(Errno::EIO));
        assert_eq!(device.get_attr(group::ADDR, addr::ITS, &mut value), Err(Errno::EIO));
        assert_eq!(device.has_attr(group::CTRL, ctrl::INIT), Err(Errno::EIO));
    }
    assert_eq!(rig.vm.create_device(device_type::ARM_VGIC_ITS).err(), Some(Errno::EIO));
    assert_eq!(rig.signal(0, 0, 0), Err(Errno::EIO));
}
