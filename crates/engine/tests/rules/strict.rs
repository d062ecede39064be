//! Strict mode names what would be lost.

use ringmark_engine::{Profile, Rule, Vcpu, Writer};

use crate::common::{LOG, Reader, Rig, gpa, slot, touch};

fn strict(rig: Rig) -> (Rig, Vcpu, Reader) {
    let mut rig = rig;
    rig.vm.set_strict(true);
    rig.add(0, 0, 300, LOG);
    let vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    (rig, vcpu, reader)
}

fn named(rig: &Rig) -> Vec<(Rule, u64)> {
    rig.vm.take_violations().iter().map(|violation| (violation.rule, violation.offset)).collect()
}

fn write(rig: &Rig, page: u64) {
    rig.vm.device_write(gpa(page), &[1], Writer::VgicTable).unwrap();
}

#[test]
fn the_right_order_breaks_nothing() {
    let (rig, mut vcpu, mut reader) = strict(Rig::ring_with_bitmap(4096));
    for round in 0..5 {
        touch(&mut vcpu, round..round + 50).unwrap();
        write(&rig, 200 + round);
        reader.harvest_all();
        rig.reset();
        assert_eq!(rig.get(0).unwrap().len(), 1);
        assert_eq!(rig.vm.unreported(), []);
        rig.vm.declare_complete();
    }
    assert_eq!(named(&rig), []);
}

#[test]
fn a_vcpu_resumes_before_the_reset() {
    let (rig, mut vcpu, mut reader) = strict(Rig::ring(Profile::x86(), 4096));
    touch(&mut vcpu, [4, 5]).unwrap();
    reader.harvest_all();
    rig.vm.declare_complete();
    assert_eq!(named(&rig), []);
    touch(&mut vcpu, [5]).unwrap();
    assert_eq!(named(&rig), [(Rule::HarvestedNotReset, 4), (Rule::HarvestedNotReset, 5)]);
    touch(&mut vcpu, [5]).unwrap();
    assert_eq!(named(&rig), [], "named once");
}

#[test]
fn the_bitmap_is_collected_before_the_tables_are_saved() {
    let (rig, _vcpu, _) = strict(Rig::ring_with_bitmap(4096));
    write(&rig, 7);
    assert_eq!(rig.get(0), Ok(vec![7]));
    write(&rig, 7);
    write(&rig, 8);
    rig.vm.declare_complete();
    assert_eq!(named(&rig), [(Rule::CollectedTooEarly, 7), (Rule::CollectedTooEarly, 8)]);
    assert_eq!(rig.get(0), Ok(vec![7, 8]));
    rig.vm.declare_complete();
    assert_eq!(named(&rig), []);
}

#[test]
fn in_manual_mode_the_collection_counts_and_not_the_clear() {
    let (rig, _vcpu, _) = strict(Rig::ring_with_bitmap(4096));
    rig.manual(1);
    write(&rig, 7);
    assert_eq!(rig.get(0), Ok(vec![7]));
    rig.vm.declare_complete();
    assert_eq!(named(&rig), []);
    write(&rig, 7);
    rig.vm.declare_complete();
    assert_eq!(named(&rig), [(Rule::CollectedTooEarly, 7)]);
}

#[test]
fn a_ring_is_left_undrained() {
    let (rig, mut vcpu, mut reader) = strict(Rig::ring(Profile::x86(), 4096));
    touch(&mut vcpu, [1, 2]).unwrap();
    reader.harvest(1);
    rig.reset();
    vcpu.set_wall_clock(gpa(9), 0, 0).unwrap();
    rig.vm.declare_complete();
    let late = (Rule::NotHarvested, 9);
    assert_eq!(named(&rig), [(Rule::NotHarvested, 2), late, late, late]);
}

#[test]
fn an_unused_entry_is_reset() {
    let (rig, _vcpu, reader) = strict(Rig::ring(Profile::x86(), 4096));
    reader.entry(0).set_flags(2);
    assert_eq!(rig.reset(), 1);
    assert_eq!(named(&rig), [(Rule::ResetOfUnused, 0)]);
}

#[test]
fn an_entry_is_reset_with_another_payload_than_it_was_pushed_with() {
    let (rig, mut vcpu, mut reader) = strict(Rig::ring(Profile::x86(), 4096));
    touch(&mut vcpu, [3, 100]).unwrap();
    reader.harvest_all();
    reader.entry(0).set_payload(0, 999);
    reader.entry(1).set_payload(0, 5);
    assert_eq!(rig.reset(), 2);
    assert_eq!(named(&rig), [(Rule::NeverReprotected, 3), (Rule::NeverReprotected, 100)]);
    assert_eq!(rig.vm.unreported(), [], "user space had them");
    touch(&mut vcpu, [3, 100]).unwrap();
    assert_eq!(rig.vm.unreported(), [(slot(0), 3), (slot(0), 100)], "and will not have them again");
}

#[test]
fn entries_of_a_deleted_slot_are_harmless() {
    let (rig, mut vcpu, mut reader) = strict(Rig::ring(Profile::x86(), 4096));
    touch(&mut vcpu, [3]).unwrap();
    rig.delete(0).unwrap();
    reader.harvest_all();
    assert_eq!(rig.reset(), 1);
    assert_eq!(named(&rig), []);
}

#[test]
fn a_device_writes_where_nothing_can_be_logged() {
    let (rig, mut vcpu, mut reader) = strict(Rig::ring(Profile::arm64(), 4096));
    write(&rig, 6);
    assert_eq!(named(&rig), [(Rule::Dropped, 6)]);
    assert_eq!(rig.vm.unreported(), [(slot(0), 6)]);
    touch(&mut vcpu, [6]).unwrap();
    reader.harvest_all();
    rig.reset();
    assert_eq!(rig.vm.unreported(), [], "somebody else reported it");
}

#[test]
fn bits_that_a_failed_collection_took_are_unreported() {
    let (rig, _vcpu, _) = strict(Rig::ring_with_bitmap(4096));
    write(&rig, 6);
    let failed = rig.vm.get_dirty_log_with(slot(0), |_| Err(ringmark_abi::Errno::EFAULT));
    assert_eq!(failed, Err(ringmark_abi::Errno::EFAULT));
    assert_eq!(rig.vm.unreported(), [(slot(0), 6)]);
}

#[test]
fn what_is_under_way_is_not_lost() {
    let mut rig = Rig::ring(Profile::x86().pml(true), 16384);
    rig.add(0, 0, 64, LOG);
    rig.vm.set_strict(true);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut running = vcpu.enter().unwrap();
    running.store(gpa(1), &[1]).unwrap();
    assert_eq!(rig.vm.unreported(), [], "in the modification log");
    drop(running);
    assert_eq!(rig.vm.unreported(), [], "in the ring");
    rig.rams[0].write(2, 0, 1);
    assert_eq!(rig.vm.unreported(), [], "the monitor's own stores are its own business");
}

#[test]
fn stores_that_initially_set_hides_are_unreported() {
    let (rig, mut vcpu, _) = strict(Rig::ring(Profile::x86(), 4096));
    rig.flags(0, 0);
    touch(&mut vcpu, [1]).unwrap();
    rig.manual(3);
    rig.flags(0, LOG);
    touch(&mut vcpu, [1, 2]).unwrap();
    assert_eq!(rig.vm.unreported(), [(slot(0), 1)]);
}

#[test]
fn a_violation_reads_as_a_sentence() {
    let (rig, _vcpu, _) = strict(Rig::ring(Profile::arm64(), 4096));
    write(&rig, 6);
    let text = rig.vm.violations()[0].to_string();
    assert!(
        text.starts_with("page 0x6 of memslot 0 is lost: it was written without a running vCPU"),
        "{text}"
    );
}
