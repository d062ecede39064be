//! Dirty rings of the host's KVM.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use common::*;
use ringmark_abi::{Errno, Vm as _, mem};
use ringmark_dirty::{DirtyPages, Harvested, Harvester, RingMemory, SlotId};
use ringmark_kvm::bindings::kvm_regs;
use ringmark_kvm::{Exit, Vcpu};
use std::sync::Arc;

type Ring = Harvester<Arc<dyn RingMemory>>;

fn harvester(vcpu: &Vcpu) -> Ring {
    Harvester::new(vcpu.ring_memory().unwrap()).unwrap()
}

/// Everything the ring holds, as (slot, offset) in the ring's order.
fn harvest(ring: &mut Ring, guest: &Guest) -> Vec<(u16, u64)> {
    let table = guest.table();
    ring.harvest(&table)
        .map(|entry| match entry {
            Harvested::Page { slot, offset } => (slot.id(), offset),
            other => panic!("not an entry of the table: {other:?}"),
        })
        .collect()
}

#[test]
fn entries_come_in_the_order_of_the_stores() {
    let Some(system) = system("entries_come_in_the_order_of_the_stores") else { return };
    let mut guest = Guest::new(&system, 4096);
    guest.add_slot(5, DATA, 16, mem::LOG_DIRTY_PAGES);
    guest.add_slot(7, DATA + 0x100_0000, 16, mem::LOG_DIRTY_PAGES);
    let mut vcpu = guest.vcpu(0);
    let mut ring = harvester(&vcpu);
    touch(&mut vcpu, DATA, 3, 1);
    touch(&mut vcpu, DATA + 0x100_0000, 2, 1);
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(0), "nothing was harvested");
    assert_eq!(harvest(&mut ring, &guest), [(5, 0), (5, 1), (5, 2), (7, 0), (7, 1)]);
    touch(&mut vcpu, DATA, 3, 2);
    assert_eq!(harvest(&mut ring, &guest), [], "pages that were not reset are not logged again");
    assert_eq!(guest.vm.reset_dirty_rings_with(1234), Ok(5));
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(0));
    touch(&mut vcpu, DATA, 3, 3);
    assert_eq!(harvest(&mut ring, &guest), [(5, 0), (5, 1), (5, 2)]);
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(3));
}

#[test]
fn a_full_ring_stops_the_vcpu_at_the_soft_limit() {
    let Some(system) = system("a_full_ring_stops_the_vcpu_at_the_soft_limit") else { return };
    let mut guest = Guest::new(&system, 1024);
    guest.add_logged(1, 2048);
    let mut vcpu = guest.vcpu(0);
    assert_eq!(guest.vm.ring_entries(), Some(1024));
    let mut ring = harvester(&vcpu);
    start(&mut vcpu, TOUCH, touching(DATA, 2048, 7));
    assert_eq!(vcpu.run(), Ok(Exit::DirtyRingFull));
    // The reserve is 64 entries, and 512 more with a page-modification log.
    assert!(matches!(ring.pending(), 960 | 448), "{} entries at the soft limit", ring.pending());
    assert_eq!(vcpu.run(), Ok(Exit::DirtyRingFull), "without a reset there is no progress");
    vcpu.set_immediate_exit(true);
    assert_eq!(vcpu.run(), Ok(Exit::Interrupted));
    let taken = harvest(&mut ring, &guest);
    assert_eq!(vcpu.run(), Ok(Exit::DirtyRingFull), "a harvest alone makes no room");
    let (_, last) = *taken.last().unwrap();
    if taken.len() == 960 {
        assert_eq!(guest.memory(1).read(last * PAGE), 0, "the store of the last entry has not happened");
        assert_eq!(guest.memory(1).read((last - 1) * PAGE), 7);
    }
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(u32::try_from(taken.len()).unwrap()));
    let mut pages = DirtyPages::new(&guest.table());
    for (slot, offset) in taken {
        pages.insert(SlotId::new(0, slot), offset).unwrap();
    }
    run_through(&mut vcpu, || {
        let taken = harvest(&mut ring, &guest);
        assert_eq!(guest.vm.reset_dirty_rings(), Ok(u32::try_from(taken.len()).unwrap()));
        for (slot, offset) in taken {
            pages.insert(SlotId::new(0, slot), offset).unwrap();
        }
    });
    for (slot, offset) in harvest(&mut ring, &guest) {
        pages.insert(SlotId::new(0, slot), offset).unwrap();
    }
    assert_eq!(pages.len(), 2048);
    assert!((0..2048).all(|page| guest.memory(1).read(page * PAGE) == 7));
}

#[test]
fn a_large_sweep_wraps_the_ring_and_loses_nothing() {
    let Some(system) = system("a_large_sweep_wraps_the_ring_and_loses_nothing") else { return };
    const PAGES: u64 = 50_000;
    let mut guest = Guest::new(&system, 4096);
    guest.add_logged(1, PAGES);
    let mut vcpu = guest.vcpu(0);
    let mut ring = harvester(&vcpu);
    let mut entries = 0;
    let mut pages = DirtyPages::new(&guest.table());
    let mut drain = || {
        let taken = harvest(&mut ring, &guest);
        entries += taken.len();
        for &(slot, offset) in &taken {
            pages.insert(SlotId::new(0, slot), offset).unwrap();
        }
        assert_eq!(guest.vm.reset_dirty_rings(), Ok(u32::try_from(taken.len()).unwrap()));
    };
    start(&mut vcpu, TOUCH, touching(DATA, PAGES, 1));
    let full = run_through(&mut vcpu, &mut drain);
    drain();
    assert!(full > 0);
    assert_eq!(pages.len(), PAGES);
    assert!(entries as u64 >= PAGES, "{entries} entries");
}

#[test]
fn each_vcpu_has_its_own_ring_and_a_reset_sums_them() {
    let Some(system) = system("each_vcpu_has_its_own_ring_and_a_reset_sums_them") else { return };
    let mut guest = Guest::new(&system, 4096);
    guest.add_logged(1, 64);
    let (mut zero, mut three) = (guest.vcpu(0), guest.vcpu(3));
    assert_eq!((zero.id(), three.id()), (0, 3));
    let (mut ring_zero, mut ring_three) = (harvester(&zero), harvester(&three));
    touch(&mut three, DATA, 4, 1);
    assert_eq!(harvest(&mut ring_zero, &guest), []);
    assert_eq!(harvest(&mut ring_three, &guest).len(), 4);
    touch(&mut zero, DATA + 32 * PAGE, 2, 1);
    assert_eq!(harvest(&mut ring_zero, &guest), [(1, 32), (1, 33)]);
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(6));
}

#[test]
fn two_vcpus_run_while_a_third_thread_harvests() {
    let Some(system) = system("two_vcpus_run_while_a_third_thread_harvests") else { return };
    const EACH: u64 = 20_000;
    let mut guest = Guest::new(&system, 65_536);
    guest.add_logged(1, 2 * EACH);
    let mut vcpus = [guest.vcpu(0), guest.vcpu(1)];
    let mut rings = [harvester(&vcpus[0]), harvester(&vcpus[1])];
    let mut pages = DirtyPages::new(&guest.table());
    let mut drain = || {
        let mut taken = 0;
        for ring in &mut rings {
            for (slot, offset) in harvest(ring, &guest) {
                pages.insert(SlotId::new(0, slot), offset).unwrap();
                taken += 1;
            }
        }
        assert_eq!(guest.vm.reset_dirty_rings(), Ok(taken));
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..)
            .zip(&mut vcpus)
            .map(|(i, vcpu)| scope.spawn(move || touch(vcpu, DATA + i * EACH * PAGE, EACH, i + 1)))
            .collect();
        while !running.iter().all(|thread| thread.is_finished()) {
            drain();
        }
    });
    drain();
    assert_eq!(pages.len(), 2 * EACH);
}

#[test]
fn the_ring_outlives_its_vcpu() {
    let Some(system) = system("the_ring_outlives_its_vcpu") else { return };
    let mut guest = Guest::new(&system, 4096);
    guest.add_logged(1, 16);
    let mut vcpu = guest.vcpu(0);
    let mut ring = harvester(&vcpu);
    touch(&mut vcpu, DATA, 5, 1);
    drop(vcpu);
    assert_eq!(harvest(&mut ring, &guest).len(), 5);
    assert_eq!(guest.vm.reset_dirty_rings(), Ok(5));
    drop(guest);
    assert_eq!(ring.pending(), 0, "and the VM");
}

#[test]
fn setting_the_wall_clock_logs_without_a_run() {
    let Some(system) = system("setting_the_wall_clock_logs_without_a_run") else { return };
    const WALL_CLOCK: u32 = 0x4b56_4d00;
    let mut guest = Guest::new(&system, 4096);
    guest.add_logged(1, 16);
    let mut vcpu = guest.vcpu(0);
    let mut ring = harvester(&vcpu);
    vcpu.set_msr(WALL_CLOCK, DATA + 4 * PAGE).unwrap();
    assert_eq!(harvest(&mut ring, &guest), [(1, 4), (1, 4), (1, 4)]);
    assert_eq!(vcpu.msr(WALL_CLOCK), Ok(DATA + 4 * PAGE));
}

#[test]
fn finishing_a_port_read_writes_memory_and_logs_it() {
    let Some(system) = system("finishing_a_port_read_writes_memory_and_logs_it") else { return };
    let mut guest = Guest::new(&system, 4096);
    guest.add_logged(1, 16);
    let mut vcpu = guest.vcpu(0);
    let mut ring = harvester(&vcpu);
    let regs = kvm_regs { rdx: u64::from(INPUT), rdi: DATA + 4 * PAGE, ..Default::default() };
    start(&mut vcpu, INSB, regs);
    match vcpu.run().unwrap() {
        Exit::IoIn { port: INPUT, width: 1, data } => data.copy_from_slice(&[0x5a]),
        other => panic!("{other:?}"),
    }
    assert_eq!(guest.memory(1).read(4 * PAGE), 0);
    let before = harvest(&mut ring, &guest).len();
    assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted));
    assert_eq!(guest.memory(1).read(4 * PAGE), 0x5a);
    assert!(harvest(&mut ring, &guest).contains(&(1, 4)), "{before} entries before it");
    assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted), "nothing is pending any more");
    run_through(&mut vcpu, || panic!("the ring is full"));
}

#[test]
fn the_kernel_refuses_private_and_executable_mappings_of_a_ring() {
    let Some(system) = system("the_kernel_refuses_private_and_executable_mappings_of_a_ring") else { return };
    let guest = Guest::new(&system, 4096);
    let vcpu = guest.vcpu(0);
    let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
    assert_eq!(vcpu.map_raw(64, 16, read, libc::MAP_PRIVATE).unwrap_err(), Errno::EINVAL);
    assert_eq!(vcpu.map_raw(64, 16, read | write, libc::MAP_PRIVATE).unwrap_err(), Errno::EINVAL);
    assert!(vcpu.map_raw(64, 16, read | libc::PROT_EXEC, libc::MAP_SHARED).is_err());
    let shared = vcpu.map_raw(64, 16, read, libc::MAP_SHARED).unwrap();
    assert_eq!(shared.len(), 16 * 4096);
    let fixed = vcpu.map_raw(64, 16, read, libc::MAP_SHARED | libc::MAP_FIXED);
    assert_eq!(fixed.unwrap_err(), Errno::EINVAL, "mappings of the process are not replaced");
}
