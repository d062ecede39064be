//! Memslots: every refusal, and what becomes of bitmap and page state.

use crate::common::{LOG, PAGE, RO, Ram, Rig, gpa, region, slot, touch};
use ringmark_abi::{Errno, MemoryRegion, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_engine::{Exit, Profile};

#[test]
fn sanity_checks() {
    let rig = Rig::new(Profile::x86());
    let ram = Ram::new(8);
    let good = region(0, 16, 8, 0, &ram);
    let bad = [
        ("slot number", MemoryRegion { slot: slot(32764), ..good }),
        ("unknown flag", MemoryRegion { flags: 8, ..good }),
        ("guest_memfd", MemoryRegion { flags: 4, ..good }),
        ("size", MemoryRegion { memory_size: PAGE + 1, ..good }),
        ("guest address", MemoryRegion { guest_phys_addr: 1, ..good }),
        ("host address", MemoryRegion { userspace_addr: ram.address() + 8, ..good }),
        ("kernel's half", MemoryRegion { userspace_addr: 1 << 47, ..good }),
        ("across the end", MemoryRegion { userspace_addr: (1 << 47) - 8 * PAGE, ..good }),
        ("address space", MemoryRegion { slot: SlotId::new(2, 0), ..good }),
        ("wrap", MemoryRegion { guest_phys_addr: 0u64.wrapping_sub(PAGE), ..good }),
        ("too long", MemoryRegion { memory_size: (1 << 31) * PAGE, ..good }),
        ("delete nothing", MemoryRegion { memory_size: 0, ..good }),
        ("beyond the bus", MemoryRegion { guest_phys_addr: 1 << 52, ..good }),
    ];
    for (what, region) in bad {
        assert_eq!(rig.set(&region), Err(Errno::EINVAL), "{what}");
    }
    assert_eq!(rig.set(&MemoryRegion { slot: slot(32763), ..good }), Ok(()), "the last slot number");
}

#[test]
fn arm64_slots_lie_in_the_guest_address_space() {
    let rig = Rig::new(Profile::arm64().ipa_bits(36));
    let ram = Ram::new(8);
    let end = (1u64 << 36) / PAGE;
    assert_eq!(rig.set(&region(0, end - 7, 8, 0, &ram)), Err(Errno::EFAULT));
    assert_eq!(rig.set(&region(0, end - 8, 8, 0, &ram)), Ok(()));
    assert_eq!(rig.set(&region(0, end, 8, 0, &ram)), Err(Errno::EFAULT), "a move too");
}

#[test]
fn overlap_is_per_address_space_and_not_with_itself() {
    let mut rig = Rig::new(Profile::x86());
    let ram = rig.add(0, 16, 8, 0);
    assert_eq!(rig.set(&region(1, 23, 8, 0, &ram)), Err(Errno::EEXIST));
    assert_eq!(rig.set(&region(1, 9, 8, 0, &ram)), Err(Errno::EEXIST));
    assert_eq!(rig.set(&region(1, 24, 8, 0, &ram)), Ok(()));
    assert_eq!(rig.set(&region(1, 20, 8, 0, &ram)), Err(Errno::EEXIST), "a move onto another");
    assert_eq!(rig.set(&region(1, 25, 8, 0, &ram)), Ok(()), "a move that overlaps its own old place");
    let smm = MemoryRegion { slot: SlotId::new(1, 0), ..region(0, 16, 8, 0, &ram) };
    assert_eq!(rig.set(&smm), Ok(()), "another address space");
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    vcpu.set_address_space(1);
    vcpu.store(gpa(16), &7u64.to_ne_bytes()).unwrap();
    assert!(matches!(vcpu.store(gpa(25), &[0]), Err(Exit::Mmio { .. })), "a slot of the other one");
    assert_eq!(ram.read(0, 0), 7);
}

#[test]
fn what_may_not_change_on_a_live_slot() {
    let mut rig = Rig::new(Profile::x86());
    let ram = rig.add(0, 16, 8, LOG);
    let other = Ram::new(8);
    let good = region(0, 16, 8, LOG, &ram);
    assert_eq!(rig.set(&MemoryRegion { memory_size: 4 * PAGE, ..good }), Err(Errno::EINVAL));
    assert_eq!(rig.set(&MemoryRegion { userspace_addr: other.address(), ..good }), Err(Errno::EINVAL));
    assert_eq!(rig.set(&MemoryRegion { flags: LOG | RO, ..good }), Err(Errno::EINVAL));
    assert_eq!(rig.set(&MemoryRegion { flags: 16, ..good }), Err(Errno::EINVAL));
    assert_eq!(rig.vm.set_memslot_flags(slot(0), RO), Err(Errno::EINVAL));
    assert_eq!(rig.vm.set_memslot_flags(slot(1), LOG), Err(Errno::ENOENT));
    assert_eq!(rig.vm.set_memslot_flags(slot(0), LOG), Ok(()));
}

#[test]
fn the_bitmap_lives_as_long_as_the_flag() {
    let mut rig = Rig::new(Profile::x86());
    rig.add(0, 0, 1000, LOG);
    rig.manual(1);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    touch(&mut vcpu, [1, 5]).unwrap();
    rig.flags(0, LOG);
    assert_eq!(rig.get(0), Ok(vec![1, 5]), "setting the same flags keeps it");
    rig.flags(0, 0);
    assert_eq!(rig.get(0), Err(Errno::ENOENT));
    assert_eq!(rig.clear(0, 0, 64, &[1]), Err(Errno::ENOENT));
    rig.flags(0, LOG);
    assert_eq!(rig.get(0), Ok(vec![]));
}

#[test]
fn a_move_keeps_bits_and_unmaps() {
    let mut rig = Rig::new(Profile::x86());
    let ram = rig.add(0, 0, 64, LOG);
    rig.manual(1);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    touch(&mut vcpu, [1, 2]).unwrap();
    rig.set(&region(0, 100, 64, LOG, &ram)).unwrap();
    assert_eq!(rig.get(0), Ok(vec![1, 2]));
    assert_eq!(vcpu.store(gpa(1), &[1]), Err(Exit::Mmio { gpa: gpa(1), len: 1, write: true }));
    touch(&mut vcpu, [120, 121, 101]).unwrap();
    assert_eq!(rig.get(0), Ok(vec![1, 2, 20, 21]));
    assert_eq!(ram.read(20, 0), 121, "the memory moved with the slot");
}

#[test]
fn delete_and_recreate() {
    let mut rig = Rig::new(Profile::x86());
    let ram = rig.add(0, 0, 64, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    touch(&mut vcpu, [1]).unwrap();
    assert_eq!(rig.delete(0), Ok(()));
    assert_eq!(rig.get(0), Err(Errno::ENOENT));
    assert_eq!(rig.delete(0), Err(Errno::EINVAL));
    assert!(matches!(touch(&mut vcpu, [1]), Err(Exit::Mmio { .. })), "no translation outlives its slot");
    assert_eq!(rig.set(&region(0, 0, 64, LOG, &ram)), Ok(()));
    assert_eq!(rig.get(0), Ok(vec![]));
    touch(&mut vcpu, [1]).unwrap();
    assert_eq!(rig.get(0), Ok(vec![1]));
}

#[test]
fn a_store_to_a_read_only_slot_leaves_the_guest() {
    let mut rig = Rig::new(Profile::x86());
    let ram = rig.add(0, 0, 8, LOG | RO);
    ram.write(3, 0, 42);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut word = [0; 8];
    vcpu.load(gpa(3), &mut word).unwrap();
    assert_eq!(u64::from_ne_bytes(word), 42);
    assert_eq!(vcpu.store(gpa(3), &[0; 4]), Err(Exit::Mmio { gpa: gpa(3), len: 4, write: true }));
    assert_eq!(rig.vm.device_write(gpa(3), &[1], ringmark_engine::Writer::Other), Err(Errno::EFAULT));
    assert_eq!(rig.get(0), Ok(vec![]));
    assert_eq!(ram.read(3, 0), 42);
}

#[test]
fn accesses_outside_memory_and_across_pages() {
    let mut rig = Rig::new(Profile::arm64());
    rig.add(0, 0, 2, 0);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut byte = [0];
    assert_eq!(vcpu.load(gpa(9), &mut byte), Err(Exit::Mmio { gpa: gpa(9), len: 1, write: false }));
    assert_eq!(vcpu.store(PAGE - 1, &[1, 2]), Err(Exit::Failed(Errno::EINVAL)));
    assert_eq!(vcpu.load(u64::MAX, &mut byte), Err(Exit::Mmio { gpa: u64::MAX, len: 1, write: false }));
}
