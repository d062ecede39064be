//! What the interrupt controller writes, and where that is logged.

use ringmark_abi::{Errno, mem};

use super::its_rig::{
    COLLECTION_TABLE, DEVICE_TABLE, ITS_BASE, ITTS, ItsRig, PENDING_TABLE, RAM_BASE, VALID, attr, discard,
    group, mapd, reg,
};
use crate::bench::Bench;
use crate::case::Case;
use crate::target::{Dest, Exit, Program};
use crate::verdict::{Must, Verdict, ensure, equal};

pub(super) const CASES: &[Case] = &[
    case!(
        "T67",
        "its-save-tables",
        [WithBitmap, Gic],
        save_tables,
        "vgic_its_save_tables_v0",
        "Saving an ITS's tables writes device, collection and translation entries and marks exactly their pages in the \
         backup bitmap, none in a ring."
    ),
    case!(
        "T68",
        "its-save-repeated",
        [WithBitmap, Gic],
        save_repeated,
        "vgic_its_save_tables_v0",
        "Saving the same tables again marks the same pages again."
    ),
    case!(
        "T69",
        "its-save-ring-only",
        [RingOnly, Gic],
        save_ring_only,
        "mark_page_dirty_in_slot",
        "Without the backup bitmap a save changes memory and leaves no record of it."
    ),
    case!(
        "T70",
        "gic-save-pending",
        [WithBitmap, Gic],
        save_pending,
        "vgic_v3_save_pending_tables",
        "Saving pending tables marks the pages of bytes that change, and none when nothing changes."
    ),
    case!(
        "T71",
        "its-discard",
        [WithBitmap, Gic],
        discard_both_ways,
        "vgic_its_cmd_handle_discard",
        "A command that user space has executed is logged in the bitmap, one the guest has executed in its ring."
    ),
    case!(
        "T72",
        "its-unmap-device",
        [WithBitmap, Gic],
        unmap_device,
        "vgic_its_cmd_handle_mapd",
        "Unmapping a device zeroes its table entry and marks that page."
    ),
    case!(
        "T73",
        "its-restore",
        [WithBitmap, Gic],
        restore,
        "vgic_its_restore_tables_v0, vgic_v3_lpi_sync_pending_status",
        "Restoring tables takes pending bits out of memory and so writes it; a second restore is refused."
    ),
    case!(
        "T76",
        "its-save-fails-halfway",
        [WithBitmap, Gic],
        save_fails_halfway,
        "vgic_its_save_tables_v0",
        "A save that fails has marked what it wrote before."
    ),
    case!(
        "T77",
        "its-save-manual",
        [WithBitmap, Gic],
        save_manual,
        "kvm_get_dirty_log_protect",
        "With manual protection the backup bitmap keeps its bits until they are cleared."
    ),
    case!(
        "T80",
        "its-save-bits-lost",
        [WithBitmap, Gic],
        bits_lost,
        "kvm_prepare_memory_region",
        "Logging off, a failed read and a deleted slot each lose the bits of a save."
    ),
];

const GIC_PENDING_BYTE: u64 = PENDING_TABLE + 8192 / 8;

fn save_tables(bench: &Bench) -> Verdict {
    let its = ItsRig::with_devices(bench, true)?;
    its.forget()?;
    its.save()?;
    let words = its.get()?;
    bench.bits("pages marked by ITS_SAVE_TABLES", &words, &its.table_pages())?;
    bench.bits("read again", &its.get()?, &[])?;
    bench.entries("entries in the ring", &its.cpu.pending(), &[])?;
    let device = |itt: u64, next: u64| VALID | next << 49 | ((RAM_BASE + itt) >> 8) << 5 | 4;
    let entries = [
        ("the entry of device 5", DEVICE_TABLE + 5 * 8, device(ITTS, 595)),
        ("the entry of device 600", DEVICE_TABLE + 600 * 8, device(ITTS + 0x1_0000, 0)),
        ("the first collection", COLLECTION_TABLE, 0x8000_0000_0000_0003),
        ("the end of the collections", COLLECTION_TABLE + 8, 0),
        ("event 7 of device 5", ITTS + 7 * 8, 0x2000_0003),
        ("event 1 of device 600", ITTS + 0x1_0000 + 8, 0x0001_0000_2008_0003),
        ("event 2 of device 600", ITTS + 0x1_0000 + 16, 0x206c_0003),
    ];
    for (what, byte, entry) in entries {
        equal(what, format!("{:#x}", its.ram.ram.read(byte)), format!("{entry:#x}"))?;
    }
    Ok(())
}

fn save_repeated(bench: &Bench) -> Verdict {
    let its = ItsRig::with_devices(bench, true)?;
    its.forget()?;
    for what in ["the first save", "the second save"] {
        its.save()?;
        bench.bits(&format!("pages marked by {what}"), &its.get()?, &its.table_pages())?;
    }
    Ok(())
}

fn save_ring_only(bench: &Bench) -> Verdict {
    let its = ItsRig::with_devices(bench, false)?;
    let before = its.ram.ram.read(DEVICE_TABLE + 5 * 8);
    equal("ITS_SAVE_TABLES", its.try_save(), Ok(()))?;
    let after = its.ram.ram.read(DEVICE_TABLE + 5 * 8);
    ensure("the entry of device 5", before != after, "a new value", after)?;
    equal("entries in the ring", its.cpu.pending(), vec![])?;
    equal("KVM_GET_DIRTY_LOG", its.rig.try_get(&its.ram), Err(Errno::ENXIO))
}

fn save_pending(bench: &Bench) -> Verdict {
    let its = ItsRig::with_devices(bench, true)?;
    its.pend(5, 7)?;
    its.forget()?;
    its.save_pending()?;
    bench.bits("pages marked by the first save", &its.get()?, &[its.page(GIC_PENDING_BYTE)])?;
    equal("the pending bit", its.ram.ram.read(GIC_PENDING_BYTE) & 1, 1)?;
    its.save_pending()?;
    bench.bits("pages marked by a save of nothing new", &its.get()?, &[])
}

fn discard_both_ways(bench: &Bench) -> Verdict {
    let mut its = ItsRig::with_devices(bench, true)?;
    its.save()?;
    its.forget()?;
    its.command(&[discard(5, 7)])?;
    bench.bits("pages marked for user space", &its.get()?, &[its.page(ITTS)])?;
    bench.entries("entries in the ring", &its.cpu.pending(), &[])?;

    let end = its.queue(&[discard(600, 1)]);
    let store = Program::Store { gpas: vec![ITS_BASE + reg::CWRITER], value: end };
    equal("the guest's store to GITS_CWRITER", its.cpu.start(&store)?, Exit::Done)?;
    let page = its.page(ITTS + 0x1_0000);
    bench.entries("entries in the ring for the guest", &its.cpu.pending(), &its.ram.logged([page]))?;
    equal("event 1 of device 600", its.ram.ram.read(ITTS + 0x1_0000 + 8), 0)?;
    bench.bits("pages marked for the guest", &its.get()?, &[])
}

fn unmap_device(bench: &Bench) -> Verdict {
    let mut its = ItsRig::with_devices(bench, true)?;
    its.save()?;
    its.forget()?;
    its.command(&[mapd(600, None)])?;
    bench.bits("pages marked", &its.get()?, &[its.page(DEVICE_TABLE + 600 * 8)])?;
    equal("the entry of device 600", its.ram.ram.read(DEVICE_TABLE + 600 * 8), 0)
}

fn restore(bench: &Bench) -> Verdict {
    let mut its = ItsRig::with_devices(bench, true)?;
    its.save()?;
    let control = |its: &ItsRig, attr| its.its.set(group::CTRL, attr, 0);
    equal("ITS_CTRL_RESET", control(&its, attr::RESET), Ok(()))?;
    its.program_tables(RAM_BASE + COLLECTION_TABLE)?;
    its.ram.ram.write(GIC_PENDING_BYTE, 1);
    its.forget()?;
    equal("ITS_RESTORE_TABLES", control(&its, attr::RESTORE_TABLES), Ok(()))?;
    equal("the pending bit in memory", its.ram.ram.read(GIC_PENDING_BYTE), 0)?;
    bench.bits("pages marked by the restore", &its.get()?, &[its.page(GIC_PENDING_BYTE)])?;
    equal("a second ITS_RESTORE_TABLES", control(&its, attr::RESTORE_TABLES), Err(Errno::EEXIST))?;
    its.enable()
}

fn save_fails_halfway(bench: &Bench) -> Verdict {
    const ELSEWHERE: u64 = 0x4800_0000;
    let rig = bench.ring_with_bitmap(1024)?;
    let page = rig.page_bytes();
    let collections = rig.log_slot(9, ELSEWHERE / page, 0x1_0000 / page)?;
    let mut its = ItsRig::bare(rig, mem::LOG_DIRTY_PAGES)?;
    its.program_redistributor()?;
    its.program_at(ELSEWHERE)?;
    its.map_devices()?;
    its.forget()?;
    its.rig.delete(&collections)?;
    equal("ITS_SAVE_TABLES without the collection table's memory", its.try_save(), Err(Errno::EFAULT))?;
    let mut want = its.table_pages();
    want.retain(|&page| page != its.page(COLLECTION_TABLE));
    bench.bits("pages marked by the failed save", &its.get()?, &want)
}

fn save_manual(bench: &Bench) -> Verdict {
    let rig = bench.ring_with_bitmap(1024)?;
    rig.manual(1)?;
    let mut its = ItsRig::programmed(rig, mem::LOG_DIRTY_PAGES)?;
    its.map_devices()?;
    its.save()?;
    let pages = its.table_pages();
    bench.bits("pages marked by the save", &its.get()?, &pages)?;
    bench.bits("read again", &its.get()?, &pages)?;
    let all = u32::try_from(its.ram.npages).unwrap_or(0);
    equal("KVM_CLEAR_DIRTY_LOG", its.rig.try_clear(&its.ram, 0, all), Ok(()))?;
    bench.bits("read after clearing", &its.get()?, &[])
}

fn bits_lost(bench: &Bench) -> Verdict {
    let mut its = ItsRig::with_devices(bench, true)?;
    let mut ram = its.ram.clone();
    its.save()?;
    its.rig.set_flags(&mut ram, 0)?;
    its.rig.set_flags(&mut ram, mem::LOG_DIRTY_PAGES)?;
    bench.bits("bits after logging off and on", &its.get()?, &[])?;
    its.save()?;
    let failed = its.rig.vm().get_dirty_log(ram.id, Dest::Bad);
    equal("KVM_GET_DIRTY_LOG to a bad address", failed, Err(Errno::EFAULT))?;
    bench.bits("bits after the failed read", &its.get()?, &[])?;
    its.save()?;
    its.rig.delete(&ram)?;
    its.rig.set(&ram.region()).must("creating the slot again")?;
    bench.bits("bits after deleting the slot", &its.get()?, &[])?;
    its.command(&[discard(5, 7)])?;
    bench.bits("bits of a later write", &its.get()?, &[its.page(ITTS)])
}
