//! Who is logged where.

use ringmark_abi::{Errno, Vm as _};
use ringmark_engine::{Exit, Marked, Profile, Writer};

use crate::common::{LOG, PAGE, Reader, Rig, gpa, slot, touch};

#[test]
fn without_a_running_vcpu() {
    for (mut rig, marked) in [
        (Rig::ring(Profile::arm64(), 4096), Marked::Dropped),
        (Rig::ring_with_bitmap(4096), Marked::Bitmap),
        (Rig::new(Profile::arm64()), Marked::Bitmap),
    ] {
        let ram = rig.add(0, 0, 8, LOG);
        let vcpu = rig.vm.create_vcpu(0).unwrap();
        assert_eq!(rig.vm.device_write(gpa(3) + 8, &7u64.to_ne_bytes(), Writer::Other), Ok(marked));
        assert_eq!(ram.read(3, 1), 7, "written in any case");
        assert_eq!(rig.vm.stats().marks_without_vcpu, 1);
        assert_eq!(rig.vm.device_write(gpa(4), &[1], Writer::VgicTable), Ok(marked));
        assert_eq!(rig.vm.stats().marks_without_vcpu, 1, "a table save is expected");
        let dropped = u64::from(marked == Marked::Dropped) * 2;
        assert_eq!(rig.vm.stats().dropped_marks, dropped);
        match marked {
            Marked::Bitmap => assert_eq!(rig.get(0), Ok(vec![3, 4])),
            _ => assert_eq!(rig.get(0), Err(Errno::ENXIO)),
        }
        if vcpu.ring_memory().is_some() {
            assert_eq!(Reader::new(&vcpu).pending(), []);
        }
    }
}

#[test]
fn the_kernel_warns_of_table_writers_too_on_x86() {
    let mut rig = Rig::new(Profile::x86());
    rig.add(0, 0, 8, 0);
    assert_eq!(rig.vm.mark_page_dirty(slot(0), 0, Writer::VgicTable), Ok(Marked::NotLogging));
    assert_eq!(rig.vm.stats().marks_without_vcpu, 1, "with or without logging");
    assert_eq!(rig.vm.mark_page_dirty(slot(0), 8, Writer::Other), Err(Errno::ENOENT));
    assert_eq!(rig.vm.mark_page_dirty(slot(1), 0, Writer::Other), Err(Errno::ENOENT));
}

#[test]
fn a_loaded_vcpu_takes_the_mark_and_another_vms_spoils_it() {
    let mut rig = Rig::ring_with_bitmap(4096);
    rig.add(0, 0, 8, LOG);
    let mut other = Rig::ring_with_bitmap(4096);
    other.add(0, 0, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(5).unwrap();
    let reader = Reader::new(&vcpu);
    let running = vcpu.enter().unwrap();
    assert_eq!(rig.vm.mark_page_dirty(slot(0), 1, Writer::Other), Ok(Marked::Ring(5)));
    assert_eq!(rig.vm.mark_page_dirty(slot(0), 1, Writer::Other), Ok(Marked::Ring(5)));
    assert_eq!(other.vm.mark_page_dirty(slot(0), 1, Writer::Other), Ok(Marked::OtherVm));
    let elsewhere = std::thread::scope(|scope| {
        scope.spawn(|| rig.vm.mark_page_dirty(slot(0), 2, Writer::Other)).join().unwrap()
    });
    assert_eq!(elsewhere, Ok(Marked::Bitmap), "loaded is a matter of the thread");
    drop(running);
    assert_eq!(rig.vm.mark_page_dirty(slot(0), 3, Writer::Other), Ok(Marked::Bitmap));
    assert_eq!(reader.offsets(), [1, 1]);
    assert_eq!(rig.get(0), Ok(vec![2, 3]));
    assert_eq!(other.get(0), Ok(vec![]));
    assert_eq!(other.vm.stats().marks_of_other_vm, 1);
}

#[test]
fn a_write_across_pages_marks_each_and_stops_at_the_end_of_memory() {
    let mut rig = Rig::new(Profile::x86());
    let ram = rig.add(0, 0, 4, LOG);
    let data = vec![0xAB; usize::try_from(2 * PAGE).unwrap()];
    assert_eq!(rig.vm.device_write(gpa(1) - 8, &data, Writer::Other), Ok(Marked::Bitmap));
    assert_eq!(rig.get(0), Ok(vec![0, 1, 2]));
    let mut back = vec![0; data.len()];
    rig.vm.device_read(gpa(1) - 8, &mut back).unwrap();
    assert_eq!(back, data);
    assert_eq!(rig.vm.device_write(gpa(4) - 8, &[1; 16], Writer::Other), Err(Errno::EFAULT));
    assert_eq!(rig.get(0), Ok(vec![3]), "the part in memory is written and marked");
    assert_eq!(ram.read(3, 511), 0x0101_0101_0101_0101);
    assert_eq!(rig.vm.device_read(u64::MAX, &mut [0; 2]), Err(Errno::EFAULT));
}

#[test]
fn vcpu_ioctls_push_every_time_without_a_run() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    vcpu.set_wall_clock(gpa(2), 1, 2).unwrap();
    assert_eq!(reader.offsets(), [2, 2, 2]);
    assert_eq!(rig.rams[0].read(2, 0), 2 | 1 << 32, "an even version, then the seconds");
    vcpu.kvm_write(gpa(3), &[1]).unwrap();
    vcpu.kvm_write(gpa(3), &[1]).unwrap();
    assert_eq!(reader.offsets(), [2, 2, 2, 3, 3]);
    assert!(!vcpu.has_run());
    assert_eq!(vcpu.kvm_write(gpa(99), &[1]), Err(Errno::EFAULT));
    vcpu.set_wall_clock(gpa(99), 1, 2).unwrap();
    let arm = Rig::ring(Profile::arm64(), 4096);
    assert_eq!(arm.vm.create_vcpu(0).unwrap().set_wall_clock(0, 1, 2), Err(Errno::EINVAL));
}

#[test]
fn in_bitmap_mode_vcpu_ioctls_set_bits() {
    let mut rig = Rig::new(Profile::x86());
    rig.add(0, 0, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    vcpu.set_wall_clock(gpa(2), 1, 2).unwrap();
    assert_eq!(rig.get(0), Ok(vec![2]));
}

#[test]
fn a_hard_full_ring_overwrites_its_oldest_entry_and_shifts_for_ever() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 200, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut reader = Reader::new(&vcpu);
    touch(&mut vcpu, [100, 101]).unwrap();
    for _ in 0..85 {
        vcpu.set_wall_clock(gpa(2), 1, 2).unwrap();
    }
    assert_eq!(reader.entry(0).payload(), (0, 2), "257 pushes into 256 entries");
    assert_eq!(rig.vm.stats().hard_full_events, 1);
    assert_eq!(vcpu.enter().err(), Some(Exit::DirtyRingFull));
    assert_eq!(reader.harvest_all().len(), 256);
    assert_eq!(rig.reset(), 256);
    touch(&mut vcpu, 10..13).unwrap();
    assert_eq!(reader.pending(), [], "the kernel is one ahead of the reader");
    assert_eq!(reader.entry(1).payload(), (0, 10));
}

#[test]
fn a_reset_of_an_unused_entry_shifts_the_indices() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    reader.entry(0).set_flags(2);
    assert_eq!(rig.reset(), 1);
    touch(&mut vcpu, [3]).unwrap();
    assert_eq!(rig.vm.stats().hard_full_events, 1, "the number of entries in use has wrapped");
    reader.entry(0).set_flags(2);
    assert_eq!(rig.reset(), 0, "the reset waits at entry 1");
}

#[test]
fn a_pending_input_is_written_by_the_next_run_even_if_that_exits_at_once() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let reader = Reader::new(&vcpu);
    assert_eq!(vcpu.set_io_data(&[1]), Err(Errno::EINVAL), "nothing is pending");
    let exit = vcpu.enter().unwrap().string_in(0x60, gpa(4), 1);
    assert_eq!(exit, Exit::IoIn { port: 0x60, len: 1 });
    assert_eq!(vcpu.set_io_data(&[1, 2]), Err(Errno::EINVAL));
    vcpu.set_io_data(&[0x5A]).unwrap();
    assert_eq!(reader.pending(), []);
    vcpu.set_immediate_exit();
    assert_eq!(vcpu.enter().err(), Some(Exit::Interrupted));
    assert_eq!(reader.offsets(), [4]);
    assert_eq!(rig.rams[0].read(4, 0), 0x5A);
    assert_eq!(vcpu.enter().err(), Some(Exit::Interrupted));
    assert_eq!(reader.offsets(), [4], "once");
}

#[test]
fn a_forked_child_may_not_use_the_vm() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    rig.add(0, 0, 8, LOG);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let answer = in_child(|| {
        let ioctls = rig.vm.reset_dirty_rings() == Err(Errno::EIO)
            && rig.vm.check_extension(192) == Err(Errno::EIO)
            && rig.vm.set_memslot_flags(slot(0), 0) == Err(Errno::EIO)
            && rig.vm.get_dirty_log(slot(0), &mut [0]) == Err(Errno::EIO);
        let run = vcpu.enter().err() == Some(Exit::Failed(Errno::EIO));
        i32::from(ioctls && run)
    });
    assert_eq!(answer, 1);
    assert_eq!(rig.vm.reset_dirty_rings(), Ok(0), "the parent may");
}

/// The exit status of `body` in a forked child.
#[allow(unsafe_code, reason = "a fork is what the rule is about")]
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child only compares numbers (no lock is held by another thread that it would need) and ends by _exit.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::_exit(body());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert!(libc::WIFEXITED(status));
        libc::WEXITSTATUS(status)
    }
}
