//! Dirty bitmaps of the host's KVM.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "raw memslots, addresses and processes")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use common::*;
use ringmark_abi::{EnableCap, Errno, Vm as _, cap, manual, mem};
use ringmark_dirty::SlotId;

const SLOT: SlotId = SlotId::new(0, 1);

#[test]
fn reading_the_log_clears_it() {
    let Some(system) = system("reading_the_log_clears_it") else { return };
    let mut guest = Guest::new(&system, 0);
    guest.add_logged(1, 1000);
    let mut vcpu = guest.vcpu(0);
    assert!(vcpu.ring_memory().is_none());
    assert_eq!(guest.vm.ring_entries(), None);
    touch(&mut vcpu, DATA, 5, 1);
    let mut bits = [0xeeee_eeee_eeee_eeee; 17];
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits), Ok(()));
    assert_eq!(bits[0], 0x1f);
    assert_eq!(bits[1..16], [0; 15]);
    assert_eq!(bits[16], 0xeeee_eeee_eeee_eeee, "only the slot's words are written");
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits), Ok(()));
    assert_eq!(bits[0], 0);
    touch(&mut vcpu, DATA + 999 * PAGE, 1, 2);
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits), Ok(()));
    assert_eq!(bits[15], 1 << (999 - 960));
    assert_eq!(guest.vm.reset_dirty_rings(), Err(Errno::EINVAL), "there is no ring");
}

#[test]
fn a_short_buffer_never_reaches_the_kernel() {
    let Some(system) = system("a_short_buffer_never_reaches_the_kernel") else { return };
    let mut guest = Guest::new(&system, 0);
    guest.add_logged(1, 1000);
    let mut vcpu = guest.vcpu(0);
    touch(&mut vcpu, DATA, 5, 1);
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut [0; 15]), Err(Errno::EINVAL));
    assert_eq!(guest.vm.clear_dirty_log(SLOT, 0, 1000, &[0; 15]), Err(Errno::EINVAL));
    let mut bits = [0; 16];
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits), Ok(()));
    assert_eq!(bits[0], 0x1f, "the bits are still there");
}

#[test]
fn a_failed_read_destroys_the_bits() {
    let Some(system) = system("a_failed_read_destroys_the_bits") else { return };
    let mut guest = Guest::new(&system, 0);
    guest.add_logged(1, 64);
    let mut vcpu = guest.vcpu(0);
    touch(&mut vcpu, DATA, 5, 1);
    // SAFETY: nothing is ever mapped in the first page.
    assert_eq!(unsafe { guest.vm.get_dirty_log_at(SLOT, 8) }, Err(Errno::EFAULT));
    let mut bits = [0; 1];
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits), Ok(()));
    assert_eq!(bits, [0]);
}

#[test]
fn errors_of_absent_slots_are_the_kernels() {
    let Some(system) = system("errors_of_absent_slots_are_the_kernels") else { return };
    let mut guest = Guest::new(&system, 0);
    guest.add_slot(1, DATA, 64, 0);
    let get = |slot| guest.vm.get_dirty_log(slot, &mut [0; 1]);
    assert_eq!(get(SLOT), Err(Errno::ENOENT), "not logged");
    assert_eq!(get(SlotId::new(0, 9)), Err(Errno::ENOENT), "absent");
    assert_eq!(get(SlotId::new(0, 0xffff)), Err(Errno::EINVAL));
    assert_eq!(get(SlotId::new(7, 1)), Err(Errno::EINVAL));
    let clear = |slot, first| guest.vm.clear_dirty_log(slot, first, 64, &[0; 1]);
    assert_eq!(clear(SlotId::new(0, 9), 0), Err(Errno::ENOENT));
    assert_eq!(clear(SlotId::new(0, 9), 1), Err(Errno::EINVAL));
    assert_eq!(guest.vm.set_memslot_flags(SlotId::new(0, 9), 0), Err(Errno::ENOENT));
    assert_eq!(guest.vm.set_memslot_flags(SLOT, 0x40), Err(Errno::EINVAL), "an unknown flag");
    assert_eq!(guest.vm.memory_regions()[1].flags, 0, "what failed is not remembered");
}

#[test]
fn a_ring_without_a_bitmap_has_no_log_to_read() {
    let Some(system) = system("a_ring_without_a_bitmap_has_no_log_to_read") else { return };
    let mut guest = Guest::new(&system, 4096);
    guest.add_logged(1, 64);
    for slot in [SLOT, SlotId::new(0, 9), SlotId::new(0, 0xffff)] {
        assert_eq!(guest.vm.get_dirty_log(slot, &mut [0; 1]), Err(Errno::ENXIO));
        assert_eq!(guest.vm.clear_dirty_log(slot, 0, 64, &[0; 1]), Err(Errno::ENXIO));
    }
}

#[test]
fn manual_protection_clears_by_request() {
    let Some(system) = system("manual_protection_clears_by_request") else { return };
    let mut guest = Guest::new(&system, 0);
    let protect = |arg| guest.vm.enable_cap(&EnableCap::new(cap::MANUAL_DIRTY_LOG_PROTECT2, arg));
    assert_eq!(protect(manual::PROTECT_ENABLE), Ok(()));
    assert_eq!(protect(4), Err(Errno::EINVAL));
    guest.add_logged(1, 64);
    let mut vcpu = guest.vcpu(0);
    touch(&mut vcpu, DATA, 10, 1);
    let get = || {
        let mut bits = [0; 1];
        guest.vm.get_dirty_log(SLOT, &mut bits).map(|()| bits[0])
    };
    assert_eq!((get(), get()), (Ok(0x3ff), Ok(0x3ff)));
    assert_eq!(guest.vm.clear_dirty_log(SLOT, 0, 64, &[0x3]), Ok(()));
    assert_eq!(get(), Ok(0x3fc));
    touch(&mut vcpu, DATA, 1, 2);
    assert_eq!(get(), Ok(0x3fd));
    assert_eq!(guest.vm.clear_dirty_log_at(SLOT, 0, 0, 8), Ok(()), "no page, no read");
    assert_eq!(guest.vm.clear_dirty_log_at(SLOT, 0, 64, 8), Err(Errno::EFAULT));
}

#[test]
fn flags_alone_change_and_the_slot_stays() {
    let Some(system) = system("flags_alone_change_and_the_slot_stays") else { return };
    let mut guest = Guest::new(&system, 0);
    guest.add_slot(1, DATA, 64, 0);
    let mut vcpu = guest.vcpu(0);
    touch(&mut vcpu, DATA, 5, 1);
    let mut bits = [0; 1];
    assert_eq!(guest.vm.set_memslot_flags(SLOT, mem::LOG_DIRTY_PAGES), Ok(()));
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits).map(|()| bits), Ok([0]));
    touch(&mut vcpu, DATA, 3, 2);
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits).map(|()| bits), Ok([7]));
    assert_eq!(guest.vm.set_memslot_flags(SLOT, 0), Ok(()));
    assert_eq!(guest.vm.get_dirty_log(SLOT, &mut bits), Err(Errno::ENOENT));
    assert_eq!(guest.memory(1).read(2 * PAGE), 2);
}

#[test]
fn a_deleted_slot_is_forgotten() {
    let Some(system) = system("a_deleted_slot_is_forgotten") else { return };
    let mut guest = Guest::new(&system, 0);
    guest.add_logged(1, 64);
    let region = guest.slots[1].0;
    let gone = ringmark_abi::MemoryRegion { memory_size: 0, ..region };
    // SAFETY: deletes; no memory is given.
    assert_eq!(unsafe { guest.vm.set_user_memory_region(&gone) }, Ok(()));
    assert_eq!(guest.vm.set_memslot_flags(SLOT, 0), Err(Errno::ENOENT));
    assert_eq!(guest.vm.memory_regions().len(), 1);
    // SAFETY: as above.
    assert_eq!(unsafe { guest.vm.set_user_memory_region(&gone) }, Err(Errno::EINVAL));
}
