//! Interrupt translation: its tables in the bitmaps, its interrupts in another VM.

use ringmark_abi::{Errno, Vm as _};
use ringmark_kvm::gic::Device;
use ringmark_kvm::{Power, System, Vcpu};

use crate::guest::*;
use crate::memory::system;
use crate::tables::*;

/// A guest with one vCPU, a VGICv3 and two ITSs, nothing programmed.
fn make(system: &System, tracking: Tracking) -> (Guest, Vcpu, Device, Vec<Device>) {
    let mut guest = Guest::new(system, tracking);
    guest.add_logged(1, 16);
    guest.add_tables();
    let vcpu = guest.vcpu(0, Power::On);
    let (vgic, its) = guest.add_interrupts(2);
    (guest, vcpu, vgic, its)
}

fn tables_of_both() -> Vec<u64> {
    (0..2).flat_map(saved_pages).collect()
}

#[test]
fn tables_arrive_in_the_bitmap_at_every_checkpoint() {
    let Some(system) = system("tables_arrive_in_the_bitmap_at_every_checkpoint") else { return };
    let (guest, mut vcpu, vgic, its) = make(&system, Tracking::RingWithBitmap(4096));
    let mut ring = harvester(&vcpu);
    guest.program(&vgic, &its, 1);
    assert_eq!(guest.collect(TABLES), [0_u64; 0], "programming writes nothing");
    for round in 1..=3 {
        touch(&mut vcpu, DATA, round, round);
        assert_eq!(harvest(&mut ring, &guest).len() as u64, round);
        assert_eq!(guest.collect(TABLES), [0_u64; 0]);
        guest.vm.save_pending_tables().unwrap();
        assert_eq!(guest.collect(TABLES), [0_u64; 0], "nothing is pending");
        guest.vm.save_its_tables().unwrap();
        assert_eq!(guest.collect(TABLES), tables_of_both());
        assert_eq!(harvest(&mut ring, &guest), [], "no vCPU ran, so no ring has them");
        assert_eq!(u64::from(guest.vm.reset_dirty_rings().unwrap()), round);
    }
    for (gpa, word) in SAVED {
        assert_eq!(guest.memory(TABLES).read(table_offset(gpa)), word, "at {gpa:#x}");
    }
}

#[test]
fn a_ring_alone_loses_the_tables() {
    let Some(system) = system("a_ring_alone_loses_the_tables") else { return };
    let (guest, vcpu, vgic, its) = make(&system, Tracking::Ring(4096));
    let mut ring = harvester(&vcpu);
    guest.program(&vgic, &its, 1);
    let device_entry = table_offset(SAVED[0].0);
    assert_eq!(guest.memory(TABLES).read(device_entry), 0);
    guest.vm.save_its_tables().unwrap();
    assert_eq!(guest.memory(TABLES).read(device_entry), SAVED[0].1, "the tables are written");
    assert_eq!(harvest(&mut ring, &guest), [], "and nobody says so");
}

#[test]
fn interrupts_arrive_in_another_vm() {
    let Some(system) = system("interrupts_arrive_in_another_vm") else { return };
    let (old, mut old_vcpu, vgic, its) = make(&system, Tracking::RingWithBitmap(4096));
    old.program(&vgic, &its, 1);
    let receive = |vcpu: &mut Vcpu| run_through(vcpu, || panic!("the ring is full"));
    start(&mut old_vcpu, RECEIVE, &[]);
    assert_eq!(old.vm.signal_msi(&msi(0, 5, 7)), Ok(1));
    assert_eq!(receive(&mut old_vcpu), first_lpi(0));
    assert_eq!(old.vm.signal_msi(&msi(1, 600, 1)), Ok(1));
    assert_eq!(receive(&mut old_vcpu), first_lpi(1) + 8);
    assert_eq!(old.vm.signal_msi(&msi(0, 5, 8)), Ok(0), "an event that is not mapped");
    assert_eq!(old.vm.signal_msi(&msi(2, 5, 7)), Err(Errno::EINVAL), "no ITS lies there");
    // Two interrupts on their way, one through each ITS, when the machine is stopped.
    assert_eq!(old.vm.signal_msi(&msi(0, 5, 7)), Ok(1));
    assert_eq!(old.vm.signal_msi(&msi(1, 600, 2)), Ok(1));
    assert_eq!(old_vcpu.complete_pending(), Ok(ringmark_kvm::Exit::Interrupted));
    drop(old.collect(TABLES));
    old.vm.save_pending_tables().unwrap();
    let pending = page(pending_table(0) + u64::from(first_lpi(0)) / 8);
    assert_eq!(old.collect(TABLES), [pending]);
    old.vm.save_its_tables().unwrap();
    assert_eq!(old.collect(TABLES), tables_of_both());
    let (vcpu_state, vm_state) = (old_vcpu.state().unwrap(), old.vm.state().unwrap());

    let (new, mut vcpu, _, _) = make(&system, Tracking::RingWithBitmap(4096));
    new.copy_memory(&old);
    vcpu.set_state(&vcpu_state).unwrap();
    assert_eq!(new.collect(TABLES), [0_u64; 0]);
    new.vm.set_state(&vm_state).unwrap();
    assert_eq!(new.collect(TABLES), [pending], "pending bits are taken out of the table");
    assert_eq!(new.vm.state().unwrap(), vm_state);
    let mut taken = [receive(&mut vcpu), receive(&mut vcpu)];
    taken.sort_unstable();
    assert_eq!(taken, [first_lpi(0), first_lpi(1) + 108]);
    assert_eq!(new.vm.signal_msi(&msi(0, 600, 1)), Ok(1));
    assert_eq!(receive(&mut vcpu), first_lpi(0) + 8);
    assert_eq!(new.vm.signal_msi(&msi(1, 5, 7)), Ok(1));
    assert_eq!(receive(&mut vcpu), first_lpi(1));
}

#[test]
fn a_vcpu_in_the_guest_keeps_the_tables_from_being_saved() {
    let Some(system) = system("a_vcpu_in_the_guest_keeps_the_tables_from_being_saved") else { return };
    let (guest, mut vcpu, vgic, its) = make(&system, Tracking::RingWithBitmap(4096));
    guest.program(&vgic, &its, 1);
    start(&mut vcpu, COUNT, &[0, DATA]);
    let kick = vcpu.kick_handle();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| vcpu.run().is_ok());
        while guest.memory(1).read(0) == 0 {
            std::thread::yield_now();
        }
        let busy = |result: Result<(), ringmark_kvm::StateError>| {
            matches!(result, Err(ringmark_kvm::StateError::Save { errno: Errno::EBUSY, .. }))
        };
        assert!(busy(guest.vm.save_its_tables()));
        assert!(busy(guest.vm.save_pending_tables()));
        assert!(busy(guest.vm.state().map(drop)));
        kick.kick().unwrap();
        assert!(running.join().unwrap());
    });
    guest.vm.save_its_tables().unwrap();
}

/// A save leaves the bit of a pending LPI in memory, though the LPI is taken later; and whoever maps that LPI anew finds
/// it there.
#[test]
fn a_saved_pending_bit_comes_back_with_the_next_mapping() {
    let Some(system) = system("a_saved_pending_bit_comes_back_with_the_next_mapping") else { return };
    let (guest, mut vcpu, vgic, its) = make(&system, Tracking::RingWithBitmap(4096));
    guest.program(&vgic, &its, 1);
    let receive = |vcpu: &mut Vcpu| run_through(vcpu, || panic!("the ring is full"));
    start(&mut vcpu, RECEIVE, &[]);
    assert_eq!(guest.vm.signal_msi(&msi(0, 5, 7)), Ok(1));
    guest.vm.save_pending_tables().unwrap();
    assert_eq!(receive(&mut vcpu), first_lpi(0));
    guest.map_again(&its);
    assert_eq!(receive(&mut vcpu), first_lpi(0), "nobody has raised it again");
}
