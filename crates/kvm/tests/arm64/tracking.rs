//! Rings with and without backup bitmaps.

use ringmark_abi::{EnableCap, Errno, Vm as _, cap};
use ringmark_dirty::SlotId;
use ringmark_kvm::Power;

use crate::guest::*;
use crate::memory::system;

#[test]
fn only_the_weakly_ordered_ring_exists_and_the_bitmap_comes_after_it() {
    let Some(system) = system("only_the_weakly_ordered_ring_exists_and_the_bitmap_comes_after_it") else {
        return;
    };
    assert_eq!(system.check_extension(cap::DIRTY_LOG_RING), Ok(0));
    assert_eq!(system.check_extension(cap::DIRTY_LOG_RING_ACQ_REL), Ok(1 << 20));
    assert_eq!(system.check_extension(cap::DIRTY_LOG_RING_WITH_BITMAP), Ok(1));
    let vm = system.create_vm().unwrap();
    let bitmap = EnableCap::new(cap::DIRTY_LOG_RING_WITH_BITMAP, 0);
    assert_eq!(vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING, 1 << 16)), Err(Errno::EINVAL));
    assert_eq!(vm.enable_cap(&bitmap), Err(Errno::EINVAL), "before the ring");
    assert_eq!(vm.ring_entries(), None);
    vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, 1 << 16)).unwrap();
    assert_eq!(vm.ring_entries(), Some(4096));
    vm.enable_cap(&bitmap).unwrap();

    let mut guest = Guest::new(&system, Tracking::Ring(4096));
    assert_eq!(guest.vm.enable_cap(&bitmap), Err(Errno::EINVAL), "after a memslot");
    guest.add_logged(1, 64);
    assert_eq!(guest.vm.get_dirty_log(SlotId::new(0, 1), &mut [0]), Err(Errno::ENXIO), "a ring alone");
}

#[test]
fn entries_come_in_the_order_of_the_stores() {
    let Some(system) = system("entries_come_in_the_order_of_the_stores") else { return };
    let mut guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    guest.add_logged(5, 16);
    let mut vcpu = guest.vcpu(0, Power::On);
    let mut ring = harvester(&vcpu);
    touch(&mut vcpu, DATA + 2 * PAGE, 3, 1);
    touch(&mut vcpu, DATA, 2, 1);
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(0), "nothing was harvested");
    assert_eq!(harvest(&mut ring, &guest), [(5, 2), (5, 3), (5, 4), (5, 0), (5, 1)]);
    touch(&mut vcpu, DATA, 3, 2);
    assert_eq!(harvest(&mut ring, &guest), [], "pages that were not reset are not logged again");
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(5));
    touch(&mut vcpu, DATA, 3, 3);
    assert_eq!(harvest(&mut ring, &guest), [(5, 0), (5, 1), (5, 2)]);
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(3));
    assert_eq!(guest.collect(5), [0_u64; 0], "what a running vCPU writes is in no bitmap");
}

#[test]
fn a_full_ring_stops_the_vcpu_and_no_store_is_lost() {
    let Some(system) = system("a_full_ring_stops_the_vcpu_and_no_store_is_lost") else { return };
    let mut guest = Guest::new(&system, Tracking::RingWithBitmap(1024));
    guest.add_logged(1, 2048);
    let mut vcpu = guest.vcpu(0, Power::On);
    let mut ring = harvester(&vcpu);
    let mut taken = Vec::new();
    start(&mut vcpu, TOUCH, &[7, DATA, PAGE, 2048]);
    let mut full = 0;
    run_through(&mut vcpu, || {
        full += 1;
        let more = harvest(&mut ring, &guest);
        assert_eq!(more.len(), 960, "the soft limit: 1024 less a reserve of 64");
        assert_eq!(guest.vm.reset_dirty_rings(), Ok(960));
        taken.extend(more);
    });
    taken.extend(harvest(&mut ring, &guest));
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(full, 2);
    assert_eq!(taken.len(), 2048);
    assert!((0..2048).all(|page| guest.memory(1).read(page * PAGE) == 7));
}
