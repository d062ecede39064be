//! What is offered, and in which order it may be switched on.

use crate::common::{LOG, PAGE, Rig};
use ringmark_abi::{EnableCap, Errno, Vm as _, cap};
use ringmark_engine::{Profile, System};

const RING: u32 = cap::DIRTY_LOG_RING;
const ACQ_REL: u32 = cap::DIRTY_LOG_RING_ACQ_REL;
const BITMAP: u32 = cap::DIRTY_LOG_RING_WITH_BITMAP;
const MANUAL: u32 = cap::MANUAL_DIRTY_LOG_PROTECT2;

#[test]
fn values_by_architecture_and_the_same_on_system_and_vm() {
    for (profile, expected) in
        [(Profile::x86(), [1 << 20, 1 << 20, 0, 3, 0]), (Profile::arm64(), [0, 1 << 20, 1, 3, 0])]
    {
        let system = System::new(profile);
        let vm = system.create_vm();
        for (cap, expected) in
            [RING, ACQ_REL, BITMAP, MANUAL, cap::MANUAL_DIRTY_LOG_PROTECT].into_iter().zip(expected)
        {
            assert_eq!(system.check_extension(cap), expected, "cap {cap}");
            assert_eq!(vm.check_extension(cap), Ok(expected), "cap {cap}");
        }
    }
}

#[test]
fn sizes_that_are_no_ring() {
    for size in [0, 1, 16, 1024, 2048, 6000, 12288] {
        assert_eq!(Rig::new(Profile::x86()).enable(RING, size), Err(Errno::EINVAL), "{size}");
    }
    for size in [2 << 20, 2 << 30] {
        assert_eq!(Rig::new(Profile::x86()).enable(ACQ_REL, size), Err(Errno::E2BIG), "{size}");
    }
}

#[test]
fn sizes_that_are_and_the_reserve_of_a_page_modification_log() {
    for size in [4096, 8192, 16384, 1 << 20] {
        assert_eq!(Rig::new(Profile::x86()).enable(RING, size), Ok(()), "{size}");
        let with_pml = Rig::new(Profile::x86().pml(true)).enable(RING, size);
        assert_eq!(with_pml, if size < 16384 { Err(Errno::EINVAL) } else { Ok(()) }, "{size} with a log");
    }
    let large_pages = Profile::arm64().page_size(ringmark_dirty::PageSize::new(65536).unwrap());
    assert_eq!(Rig::new(large_pages.clone()).enable(ACQ_REL, 32768), Err(Errno::EINVAL), "less than a page");
    assert_eq!(Rig::new(large_pages).enable(ACQ_REL, 65536), Ok(()));
}

#[test]
fn the_size_is_cut_to_32_bits_and_flags_are_not_looked_at() {
    let rig = Rig::new(Profile::x86());
    assert_eq!(rig.enable(RING, 1 << 32), Err(Errno::EINVAL));
    assert_eq!(rig.enable(RING, (1 << 32) + 4096), Ok(()));
    assert_eq!(rig.vm.create_vcpu(0).unwrap().ring_memory().unwrap().entries().len(), 256);
    let rig = Rig::new(Profile::x86());
    let cap = EnableCap { cap: RING, flags: 1, args: [4096, 7, 7, 7] };
    assert_eq!(rig.vm.enable_cap(&cap), Ok(()));
}

#[test]
fn a_ring_is_for_life_and_too_large_goes_before_too_late() {
    let rig = Rig::ring(Profile::x86(), 4096);
    for (cap, size) in [(RING, 4096), (ACQ_REL, 4096), (RING, 8192)] {
        assert_eq!(rig.enable(cap, size), Err(Errno::EINVAL));
    }
    assert_eq!(rig.enable(RING, 2 << 20), Err(Errno::E2BIG));
}

#[test]
fn no_ring_once_a_vcpu_was_created_even_if_it_is_closed() {
    let rig = Rig::new(Profile::x86());
    let vcpu = rig.vm.create_vcpu(0).unwrap();
    assert_eq!(rig.enable(RING, 4096), Err(Errno::EINVAL));
    assert_eq!(vcpu.enable_cap(&EnableCap::new(RING, 4096)), Err(Errno::EINVAL));
    drop(vcpu);
    assert_eq!(rig.enable(RING, 4096), Err(Errno::EINVAL));
    assert_eq!(System::new(Profile::x86()).enable_cap(&EnableCap::new(RING, 4096)), Err(Errno::EINVAL));
}

#[test]
fn a_ring_may_come_after_a_logging_slot_whose_bitmap_it_hides() {
    let mut rig = Rig::new(Profile::x86());
    rig.add(0, 0, 8, LOG);
    assert_eq!(rig.get(0), Ok(vec![]));
    assert_eq!(rig.enable(RING, 4096), Ok(()));
    assert_eq!(rig.get(0), Err(Errno::ENXIO));
}

#[test]
fn arm64_has_no_ring_of_total_store_order() {
    assert_eq!(Rig::new(Profile::arm64()).enable(RING, 4096), Err(Errno::EINVAL));
    assert_eq!(Rig::new(Profile::arm64()).enable(ACQ_REL, 4096), Ok(()));
}

#[test]
fn the_backup_bitmap_comes_after_the_ring_and_before_any_memslot() {
    let mut rig = Rig::new(Profile::arm64());
    assert_eq!(rig.enable(BITMAP, 0), Err(Errno::EINVAL), "no ring yet");
    rig.enable(ACQ_REL, 65536).unwrap();
    assert_eq!(rig.vm.enable_cap(&EnableCap { cap: BITMAP, flags: 1, args: [0; 4] }), Err(Errno::EINVAL));
    rig.add(3, 0, 4, 0);
    assert_eq!(rig.enable(BITMAP, 0), Err(Errno::EINVAL), "a slot that does not even log");
    rig.delete(3).unwrap();
    let _vcpu = rig.vm.create_vcpu(0).unwrap();
    assert_eq!(rig.enable(BITMAP, 0), Ok(()), "a vCPU is no hindrance");
    assert_eq!(rig.enable(BITMAP, 123), Ok(()), "again, with an argument nobody looks at");
    rig.add(3, 0, 4, LOG);
    assert_eq!(rig.enable(BITMAP, 0), Err(Errno::EINVAL));
}

#[test]
fn x86_has_no_backup_bitmap() {
    let rig = Rig::new(Profile::x86());
    assert_eq!(rig.enable(BITMAP, 0), Err(Errno::EINVAL));
    rig.enable(RING, 4096).unwrap();
    assert_eq!(rig.enable(BITMAP, 0), Err(Errno::EINVAL));
}

#[test]
fn manual_protect_takes_0_1_and_3() {
    let rig = Rig::new(Profile::x86());
    for value in [0, 1, 3, 0, 3] {
        assert_eq!(rig.enable(MANUAL, value), Ok(()), "{value}");
    }
    for value in [2, 4, 5, 7, 1 << 32, (1 << 32) | 1] {
        assert_eq!(rig.enable(MANUAL, value), Err(Errno::EINVAL), "{value}");
    }
    let cap = EnableCap { cap: MANUAL, flags: 1, args: [1, 0, 0, 0] };
    assert_eq!(rig.vm.enable_cap(&cap), Err(Errno::EINVAL));
    assert_eq!(rig.enable(cap::MANUAL_DIRTY_LOG_PROTECT, 1), Err(Errno::EINVAL));
    assert_eq!(rig.enable(9999, 1), Err(Errno::EINVAL));
}

#[test]
fn reset_without_and_with_rings() {
    assert_eq!(Rig::new(Profile::x86()).vm.reset_dirty_rings(), Err(Errno::EINVAL));
    assert_eq!(Rig::ring(Profile::x86(), 4096).reset(), 0);
}

#[test]
fn vcpu_ids() {
    let rig = Rig::new(Profile::x86());
    let vcpu = rig.vm.create_vcpu(3).unwrap();
    assert!(vcpu.ring_memory().is_none(), "no ring, no memory");
    assert_eq!(rig.vm.create_vcpu(3).unwrap_err(), Errno::EEXIST);
    drop(vcpu);
    assert_eq!(rig.vm.create_vcpu(3).unwrap_err(), Errno::EEXIST, "as in the kernel it stays");
    assert_eq!(rig.vm.create_vcpu(4096).unwrap_err(), Errno::EINVAL);
    assert_eq!(rig.vm.vcpu_ids(), [3]);
}

#[test]
fn mapping_a_ring_looks_at_both_ends_of_the_request() {
    let rig = Rig::ring(Profile::x86(), 8192);
    let vcpu = rig.vm.create_vcpu(0).unwrap();
    let entries = usize::try_from(PAGE / 16).unwrap();
    for (shared, executable) in [(false, false), (false, true), (true, true)] {
        assert_eq!(vcpu.map(64, 2, shared, executable).unwrap_err(), Errno::EINVAL);
    }
    assert!(vcpu.map(63, 4, false, false).is_ok(), "neither end is in the ring");
    let second = vcpu.map(65, 1, true, false).unwrap();
    let whole = vcpu.map(64, 3, true, false).unwrap();
    whole.page(1).unwrap()[0].set_payload(1, 42);
    assert_eq!(second.page(0).unwrap()[0].payload(), (1, 42));
    assert_eq!(whole.page(0).unwrap().len(), entries);
    assert!(whole.page(2).is_none(), "past the ring");
    assert!(whole.page(3).is_none(), "past the mapping");
    assert!(vcpu.map(66, 1, false, true).unwrap().page(0).is_none(), "behind the window");
    drop(vcpu);
    assert!(whole.page(1).is_some(), "a mapping outlives its vCPU");
    let off = Rig::new(Profile::x86());
    assert!(off.vm.create_vcpu(0).unwrap().map(64, 1, true, false).unwrap().page(0).is_none());
}

#[test]
fn a_dead_vm_answers_eio() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 4, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    rig.vm.kill();
    assert_eq!(rig.vm.check_extension(RING), Err(Errno::EIO));
    assert_eq!(rig.vm.reset_dirty_rings(), Err(Errno::EIO));
    assert_eq!(rig.get(0), Err(Errno::EIO));
    assert_eq!(rig.clear(0, 0, 0, &[]), Err(Errno::EIO));
    assert_eq!(rig.delete(0), Err(Errno::EIO));
    assert_eq!(rig.enable(RING, 4096), Err(Errno::EIO));
    assert_eq!(rig.vm.create_vcpu(1).unwrap_err(), Errno::EIO);
    assert_eq!(vcpu.kvm_write(0, &[1]), Err(Errno::EIO));
    assert_eq!(vcpu.store(0, &[1]), Err(ringmark_engine::Exit::Failed(Errno::EIO)));
}
