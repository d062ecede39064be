//! The page-modification log: stores first, entries at the next exit.

use ringmark_abi::Vm as _;
use ringmark_engine::{Exit, Profile};

use crate::common::{LOG, Reader, Rig, gpa, slot, touch};

fn pml() -> Profile {
    Profile::x86().pml(true)
}

#[test]
fn the_store_comes_first_and_the_entry_with_the_exit() {
    let mut rig = Rig::ring(pml(), 16384);
    let ram = rig.add(0, 0, 64, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut reader = Reader::new(&vcpu);
    let mut running = vcpu.enter().unwrap();
    for page in [3, 4, 3] {
        running.store(gpa(page), &7u64.to_ne_bytes()).unwrap();
    }
    assert_eq!(ram.read(4, 0), 7);
    assert_eq!(reader.pending(), [], "in the buffer");
    drop(running);
    assert_eq!(reader.offsets(), [3, 4]);
    reader.harvest_all();
    assert_eq!(rig.reset(), 2);
    touch(&mut vcpu, [4]).unwrap();
    assert_eq!(reader.offsets(), [4]);
}

#[test]
fn a_full_buffer_is_an_exit_before_the_store() {
    let mut rig = Rig::ring(pml(), 65536);
    rig.add(0, 0, 600, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    let mut running = vcpu.enter().unwrap();
    for page in 0..512 {
        running.store(gpa(page), &[1]).unwrap();
    }
    assert_eq!(reader.pending(), []);
    running.store(gpa(512), &[1]).unwrap();
    assert_eq!(reader.offsets(), (0..512).collect::<Vec<_>>());
    drop(running);
    assert_eq!(reader.pending().len(), 513);
}

#[test]
fn a_flush_can_pass_the_soft_limit_by_512_and_no_more() {
    let mut rig = Rig::ring(pml(), 16384);
    rig.add(0, 0, 2000, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut reader = Reader::new(&vcpu);
    touch(&mut vcpu, 0..447).unwrap();
    assert_eq!(touch(&mut vcpu, 447..2000), Err(Exit::DirtyRingFull));
    assert_eq!(reader.pending().len(), 447 + 512);
    assert_eq!(rig.rams[0].read(447 + 511, 0), 447 + 512, "every entry's store has happened");
    assert_eq!(rig.rams[0].read(447 + 512, 0), 0);
    assert_eq!(rig.vm.stats().hard_full_events, 0);
    reader.harvest_all();
    rig.reset();
    touch(&mut vcpu, [959]).unwrap();
    assert_eq!(reader.offsets(), [959], "no entry twice, as the store did not wait behind one");
}

#[test]
fn a_kick_brings_out_what_the_buffer_holds() {
    let mut rig = Rig::ring(pml(), 16384);
    rig.add(0, 0, 64, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    let kick = vcpu.kicker();
    let mut running = vcpu.enter().unwrap();
    running.store(gpa(1), &[1]).unwrap();
    kick.signal();
    assert_eq!(reader.pending(), [], "the kick does not wait");
    assert_eq!(running.poll(), Err(Exit::Interrupted));
    assert_eq!(reader.offsets(), [1]);
}

#[test]
fn collecting_asks_for_the_buffer_but_does_not_wait_for_it() {
    let mut rig = Rig::new(pml());
    rig.add(0, 0, 64, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut running = vcpu.enter().unwrap();
    running.store(gpa(1), &[1]).unwrap();
    assert_eq!(rig.get(0), Ok(vec![]), "still in the buffer");
    running.poll().unwrap();
    assert_eq!(rig.get(0), Ok(vec![1]), "the interrupt has emptied it");
    drop(running);
    assert_eq!(rig.get(0), Ok(vec![]));
}

#[test]
fn a_flush_of_translations_is_an_exit_too() {
    let mut rig = Rig::ring(pml(), 16384);
    rig.add(0, 0, 64, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    let mut running = vcpu.enter().unwrap();
    running.store(gpa(1), &[1]).unwrap();
    rig.vm.unmap(slot(0), 1, 1);
    running.store(gpa(2), &[1]).unwrap();
    assert_eq!(reader.offsets(), [1]);
    drop(running);
    assert_eq!(reader.offsets(), [1, 2]);
    assert_eq!(rig.vm.reset_dirty_rings(), Ok(0));
}
