//! `KVM_GET_DIRTY_LOG` and `KVM_CLEAR_DIRTY_LOG`, alone and behind rings.

use ringmark_abi::{Errno, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_engine::{Profile, Vcpu, Writer};

use crate::common::{LOG, Reader, Rig, gpa, slot, touch};

fn bitmap_mode(pages: u64) -> (Rig, Vcpu) {
    let mut rig = Rig::new(Profile::x86());
    rig.add(0, 0, pages, LOG);
    let vcpu = rig.vm.create_vcpu(0).unwrap();
    (rig, vcpu)
}

#[test]
fn reading_clears_and_protects() {
    let (rig, mut vcpu) = bitmap_mode(1000);
    assert_eq!(rig.get(0), Ok(vec![]));
    touch(&mut vcpu, [0, 64, 999]).unwrap();
    assert_eq!(rig.get(0), Ok(vec![0, 64, 999]));
    assert_eq!(rig.get(0), Ok(vec![]));
    touch(&mut vcpu, [64]).unwrap();
    assert_eq!(rig.get(0), Ok(vec![64]));
}

#[test]
fn names_of_slots() {
    let mut rig = Rig::new(Profile::x86());
    rig.add(0, 0, 64, 0);
    let mut word = [0];
    for (id, errno) in [
        (slot(0), Errno::ENOENT),
        (slot(5), Errno::ENOENT),
        (slot(32763), Errno::ENOENT),
        (slot(32764), Errno::EINVAL),
        (slot(0xffff), Errno::EINVAL),
        (SlotId::new(2, 0), Errno::EINVAL),
        (SlotId::new(1, 0), Errno::ENOENT),
    ] {
        assert_eq!(rig.vm.get_dirty_log(id, &mut word), Err(errno), "{id}");
        assert_eq!(rig.vm.clear_dirty_log(id, 0, 64, &word), Err(errno), "{id}");
    }
}

#[test]
fn ring_only_mode_has_no_bitmap_whatever_the_name() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 64, LOG);
    for id in [slot(0), slot(5), slot(0xffff), SlotId::new(9, 0)] {
        assert_eq!(rig.vm.get_dirty_log(id, &mut [0]), Err(Errno::ENXIO));
        assert_eq!(rig.vm.clear_dirty_log(id, 1, 3, &[0]), Err(Errno::ENXIO));
    }
}

#[test]
fn whole_words_are_written_and_no_more() {
    let (rig, mut vcpu) = bitmap_mode(1000);
    touch(&mut vcpu, [999]).unwrap();
    let mut words = [0xEEEE_EEEE_EEEE_EEEE; 17];
    rig.vm.get_dirty_log(slot(0), &mut words).unwrap();
    assert_eq!(words[..15], [0; 15]);
    assert_eq!(words[15], 1 << (999 % 64), "unused bits are zero");
    assert_eq!(words[16], 0xEEEE_EEEE_EEEE_EEEE);
    touch(&mut vcpu, [999]).unwrap();
    assert_eq!(rig.vm.get_dirty_log(slot(0), &mut words[..15]), Err(Errno::EINVAL), "a buffer too short");
    assert_eq!(rig.get(0), Ok(vec![999]), "is refused before anything is taken");
}

#[test]
fn a_failed_copy_loses_the_bits_and_protects_the_pages() {
    let (rig, mut vcpu) = bitmap_mode(64);
    touch(&mut vcpu, 0..5).unwrap();
    let failed = rig.vm.get_dirty_log_with(slot(0), |words| {
        assert_eq!(words, [0x1f]);
        Err(Errno::EFAULT)
    });
    assert_eq!(failed, Err(Errno::EFAULT));
    assert_eq!(rig.get(0), Ok(vec![]));
    touch(&mut vcpu, [2]).unwrap();
    assert_eq!(rig.get(0), Ok(vec![2]));
    rig.manual(1);
    touch(&mut vcpu, [7]).unwrap();
    assert_eq!(rig.vm.get_dirty_log_with(slot(0), |_| Err(Errno::EFAULT)), Err(Errno::EFAULT));
    assert_eq!(rig.get(0), Ok(vec![7]), "manual mode takes nothing");
}

#[test]
fn arguments_of_clear() {
    let (rig, _vcpu) = bitmap_mode(1000);
    let words = [0; 16];
    for (first, num) in [(0, 64), (64, 64), (0, 1000), (960, 40), (64, 936), (0, 960), (0, 0), (64, 0)] {
        assert_eq!(rig.clear(0, first, num, &words), Ok(()), "({first}, {num})");
    }
    for (first, num) in [
        (1, 64),
        (63, 64),
        (0, 1),
        (0, 999),
        (0, 1001),
        (0, 1024),
        (960, 64),
        (960, 39),
        (960, 41),
        (1000, 0),
        (1001, 0),
        (1024, 0),
        (64, 930),
        (u64::MAX - 63, 64),
    ] {
        assert_eq!(rig.clear(0, first, num, &words), Err(Errno::EINVAL), "({first}, {num})");
    }
    let (rig, _vcpu) = bitmap_mode(1024);
    assert_eq!(rig.clear(0, 1024, 0, &[]), Ok(()));
    assert_eq!(rig.clear(0, 960, 64, &[0]), Ok(()));
    assert_eq!(rig.clear(0, 960, 63, &[0]), Err(Errno::EINVAL));
}

#[test]
fn the_order_of_clears_checks() {
    let (rig, _vcpu) = bitmap_mode(1000);
    let fault = |_: &mut [u64]| Err(Errno::EFAULT);
    assert_eq!(rig.clear(7, 1, 64, &[0]), Err(Errno::EINVAL), "misaligned goes before absent");
    assert_eq!(rig.clear(7, 64, 64, &[0]), Err(Errno::ENOENT));
    assert_eq!(
        rig.vm.clear_dirty_log_with(slot(0), 0, 999, fault),
        Err(Errno::EINVAL),
        "range before pointer"
    );
    assert_eq!(rig.vm.clear_dirty_log_with(slot(0), 0, 64, fault), Err(Errno::EFAULT));
    assert_eq!(rig.vm.clear_dirty_log_with(slot(0), 0, 0, fault), Ok(()), "nothing is read for no pages");
    assert_eq!(rig.clear(0, 0, 128, &[0]), Err(Errno::EINVAL), "a buffer too short");
}

#[test]
fn clear_works_without_manual_mode_and_ignores_what_is_past_the_end() {
    let (rig, mut vcpu) = bitmap_mode(1000);
    touch(&mut vcpu, 0..10).unwrap();
    touch(&mut vcpu, [999]).unwrap();
    assert_eq!(rig.clear(0, 0, 960, &[u64::MAX; 15]), Ok(()));
    assert_eq!(rig.clear(0, 960, 40, &[u64::MAX]), Ok(()));
    assert_eq!(rig.get(0), Ok(vec![]));
}

#[test]
fn manual_mode() {
    let (rig, mut vcpu) = bitmap_mode(64);
    rig.manual(1);
    touch(&mut vcpu, 0..10).unwrap();
    let ten: Vec<u64> = (0..10).collect();
    assert_eq!(rig.get(0), Ok(ten.clone()));
    assert_eq!(rig.get(0), Ok(ten.clone()));
    assert_eq!(rig.clear(0, 0, 64, &[3]), Ok(()));
    assert_eq!(rig.get(0), Ok(ten[2..].to_vec()));
    touch(&mut vcpu, [0, 5]).unwrap();
    assert_eq!(rig.get(0), Ok([&[0], &ten[2..]].concat()), "0 was protected again, 5 was not");
}

#[test]
fn initially_set() {
    let (rig, mut vcpu) = bitmap_mode(1000);
    rig.manual(3);
    rig.flags(0, 0);
    touch(&mut vcpu, [3, 70]).unwrap();
    rig.flags(0, LOG);
    let all: Vec<u64> = (0..1000).collect();
    assert_eq!(rig.get(0), Ok(all.clone()));
    assert_eq!(rig.get(0), Ok(all.clone()));
    assert_eq!(rig.clear(0, 0, 64, &[u64::MAX]), Ok(()));
    assert_eq!(rig.get(0), Ok(all[64..].to_vec()));
    touch(&mut vcpu, 0..3).unwrap();
    assert_eq!(rig.get(0).unwrap()[..4], [0, 1, 2, 64]);
    rig.manual(0);
    assert_eq!(rig.get(0).unwrap().len(), 939, "the next collection takes everything");
    assert_eq!(rig.get(0), Ok(vec![]));
}

#[test]
fn initially_set_never_protects_what_was_mapped() {
    for (manual, logged) in [(0, 3), (1, 3), (3, 0)] {
        let mut rig = Rig::ring(Profile::x86(), 4096);
        rig.manual(manual);
        rig.add(0, 0, 64, 0);
        let mut vcpu = rig.vm.create_vcpu(0).unwrap();
        let reader = Reader::new(&vcpu);
        touch(&mut vcpu, 0..3).unwrap();
        rig.flags(0, LOG);
        touch(&mut vcpu, 0..3).unwrap();
        assert_eq!(reader.pending().len(), logged, "manual {manual}");
    }
}

#[test]
fn initially_set_behind_a_ring_presets_the_backup_bitmap() {
    let mut rig = Rig::ring_with_bitmap(4096);
    rig.manual(3);
    rig.add(0, 0, 64, 0);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    touch(&mut vcpu, [1]).unwrap();
    rig.flags(0, LOG);
    assert_eq!(rig.get(0).unwrap().len(), 64);
    touch(&mut vcpu, [1]).unwrap();
    assert_eq!(reader.pending().len(), 0);
    rig.clear(0, 0, 64, &[u64::MAX]).unwrap();
    touch(&mut vcpu, [1]).unwrap();
    assert_eq!(reader.offsets(), [1]);
}

#[test]
fn the_backup_bitmap_holds_what_no_vcpu_wrote() {
    let mut rig = Rig::ring_with_bitmap(65536);
    rig.add(0, 0, 64, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    touch(&mut vcpu, [1, 2]).unwrap();
    assert_eq!(rig.get(0), Ok(vec![]));
    rig.vm.device_write(gpa(2), &[1], Writer::VgicTable).unwrap();
    touch(&mut vcpu, [2]).unwrap();
    assert_eq!(reader.offsets(), [1, 2], "2 is writable");
    assert_eq!(rig.get(0), Ok(vec![2]));
    touch(&mut vcpu, [2, 1]).unwrap();
    assert_eq!(reader.offsets(), [1, 2, 2], "collecting protected 2");
    assert_eq!(rig.clear(0, 0, 64, &[u64::MAX]), Ok(()));
}

#[test]
fn what_ends_the_backup_bitmap() {
    let mut rig = Rig::ring_with_bitmap(65536);
    let ram = rig.add(0, 0, 64, LOG);
    let write = |rig: &Rig| rig.vm.device_write(gpa(2), &[1], Writer::VgicTable).unwrap();
    write(&rig);
    rig.flags(0, 0);
    rig.flags(0, LOG);
    assert_eq!(rig.get(0), Ok(vec![]));
    write(&rig);
    rig.delete(0).unwrap();
    rig.set(&crate::common::region(0, 0, 64, LOG, &ram)).unwrap();
    assert_eq!(rig.get(0), Ok(vec![]));
}

#[test]
fn huge_pages_hide_stores_from_arm64_rings_without_a_bitmap() {
    let profile = Profile::arm64().huge_block_pages(512);
    let mut rig = Rig::ring(profile.clone(), 65536);
    rig.add(0, 512, 2048, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut reader = Reader::new(&vcpu);
    touch(&mut vcpu, 512..2560).unwrap();
    assert_eq!(reader.offsets(), [0, 512, 1024, 1536], "one entry a block");
    reader.harvest_all();
    assert_eq!(rig.reset(), 4);
    touch(&mut vcpu, (512..2560).rev()).unwrap();
    assert_eq!(reader.offsets(), [2047, 1535, 1023, 511], "blocks are protected as blocks");
    reader.harvest_all();
    rig.reset();
    rig.flags(0, 0);
    touch(&mut vcpu, 512..2560).unwrap();
    rig.flags(0, LOG);
    touch(&mut vcpu, 512..2560).unwrap();
    assert_eq!(reader.offsets().len(), 4);

    let mut rig = Rig::new(profile);
    rig.enable(ringmark_abi::cap::DIRTY_LOG_RING_ACQ_REL, 65536).unwrap();
    rig.enable(ringmark_abi::cap::DIRTY_LOG_RING_WITH_BITMAP, 0).unwrap();
    rig.add(0, 512, 2048, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    touch(&mut vcpu, 512..2560).unwrap();
    assert_eq!(reader.pending().len(), 2048, "with a bitmap every page is logged");
}

#[test]
fn reads_log_on_arm64_where_there_is_no_bitmap() {
    for (with_bitmap, expected) in [(false, vec![0, 1, 2, 3]), (true, vec![])] {
        let mut rig =
            if with_bitmap { Rig::ring_with_bitmap(65536) } else { Rig::ring(Profile::arm64(), 65536) };
        rig.add(0, 0, 8, LOG);
        let mut vcpu = rig.vm.create_vcpu(0).unwrap();
        let reader = Reader::new(&vcpu);
        for page in [0, 1, 2, 3, 1] {
            vcpu.load(gpa(page), &mut [0; 8]).unwrap();
        }
        assert_eq!(reader.offsets(), expected);
    }
}
