//! What the wrappers refuse, and what the kernel refuses through them.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "raw memslots, addresses and processes")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::path::Path;

use common::*;
use ringmark_abi::{EnableCap, Errno, Vm as _, cap};
use ringmark_dirty::SlotId;
use ringmark_kvm::bindings::{KVM_API_VERSION, KVM_CAP_NR_MEMSLOTS};
use ringmark_kvm::{CreateVcpuError, OpenError, System};

#[test]
fn an_absent_device_says_what_to_do() {
    let path = Path::new("/nonexistent/kvm");
    let error = System::open_at(path).unwrap_err();
    assert_eq!(error, OpenError::Absent { path: path.to_owned() });
    assert!(error.to_string().contains("/nonexistent/kvm does not exist"));
    assert!(error.to_string().contains("kvm_intel"));
}

#[test]
fn a_device_that_is_no_kvm_is_refused() {
    let error = System::open_at(Path::new("/dev/null")).unwrap_err();
    assert_eq!(error, OpenError::Failed { path: "/dev/null".into(), errno: Errno::ENOTTY });
    let directory = System::open_at(Path::new("/")).unwrap_err();
    assert!(matches!(directory, OpenError::Failed { .. }), "{directory:?}");
    let nul = System::open_at(Path::new("/dev/k\0m")).unwrap_err();
    assert!(matches!(nul, OpenError::Failed { errno: Errno::EINVAL, .. }), "{nul:?}");
}

#[test]
fn denied_and_outdated_devices_say_what_to_do() {
    let denied = OpenError::Denied { path: "/dev/kvm".into(), group: 104 }.to_string();
    assert!(denied.contains("group 104") && denied.contains("usermod -aG kvm"), "{denied}");
    let old = OpenError::ApiVersion { path: "/dev/kvm".into(), version: 9 }.to_string();
    assert!(old.contains("version 9") && old.contains(&format!("version {KVM_API_VERSION}")), "{old}");
}

#[test]
fn capabilities_are_the_same_on_device_and_vm() {
    let Some(system) = system("capabilities_are_the_same_on_device_and_vm") else { return };
    let vm = system.create_vm().unwrap();
    assert_eq!(vm.page_size(), system.page_size());
    for cap in [
        cap::DIRTY_LOG_RING,
        cap::DIRTY_LOG_RING_ACQ_REL,
        cap::DIRTY_LOG_RING_WITH_BITMAP,
        cap::MANUAL_DIRTY_LOG_PROTECT2,
        KVM_CAP_NR_MEMSLOTS,
        0xffff_ffff,
    ] {
        assert_eq!(system.check_extension(cap), vm.check_extension(cap), "capability {cap}");
    }
    assert_eq!(vm.check_extension(0xffff_ffff), Ok(0));
}

#[test]
fn a_ring_is_enabled_once_before_vcpus_and_on_a_vm() {
    let Some(system) = system("a_ring_is_enabled_once_before_vcpus_and_on_a_vm") else { return };
    let ring = |bytes| EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, bytes);
    assert_eq!(system.enable_cap(&ring(65_536)), Err(Errno::EINVAL));
    let vm = system.create_vm().unwrap();
    assert_eq!(vm.enable_cap(&ring(6000)), Err(Errno::EINVAL));
    assert_eq!(vm.enable_cap(&ring(2 << 20)), Err(Errno::E2BIG));
    assert_eq!(vm.ring_entries(), None);
    assert_eq!(vm.enable_cap(&ring((1 << 32) + 65_536)), Ok(()), "the kernel takes 32 bits of the size");
    assert_eq!(vm.ring_entries(), Some(4096));
    assert_eq!(vm.enable_cap(&ring(65_536)), Err(Errno::EINVAL));
    let vcpu = vm.create_vcpu(0).unwrap();
    assert_eq!(vcpu.ring_memory().unwrap().entries().len(), 4096);
    let late = system.create_vm().unwrap();
    drop(late.create_vcpu(0).unwrap());
    assert_eq!(late.enable_cap(&ring(65_536)), Err(Errno::EINVAL));
}

#[test]
fn vcpu_ids_are_unique_and_bounded() {
    let Some(system) = system("vcpu_ids_are_unique_and_bounded") else { return };
    let vm = system.create_vm().unwrap();
    let vcpu = vm.create_vcpu(5).unwrap();
    let twice = vm.create_vcpu(5).unwrap_err();
    assert_eq!(twice, CreateVcpuError::Create { id: 5, errno: Errno::EEXIST });
    assert_eq!(Errno::from(twice), Errno::EEXIST);
    assert_eq!(twice.to_string(), format!("vCPU 5 cannot be created: {}", Errno::EEXIST));
    assert_eq!(Errno::from(vm.create_vcpu(u32::MAX).unwrap_err()), Errno::EINVAL);
    drop(vcpu);
    assert_eq!(Errno::from(vm.create_vcpu(5).unwrap_err()), Errno::EEXIST, "an id is used up for ever");
}

#[test]
fn platform_devices_are_made_in_order() {
    let Some(system) = system("platform_devices_are_made_in_order") else { return };
    let vm = system.create_vm().unwrap();
    assert_eq!(vm.create_pit2(), Err(Errno::ENOENT), "no interrupt controller");
    assert_eq!(vm.set_irq_line(4, true), Err(Errno::ENXIO));
    assert_eq!(vm.set_tss_address(0xfffb_d000), Ok(()));
    assert_eq!(vm.set_tss_address(u32::MAX), Err(Errno::EINVAL), "three pages do not fit");
    assert_eq!(vm.create_irqchip(), Ok(()));
    assert_eq!(vm.create_irqchip(), Err(Errno::EEXIST));
    assert_eq!(vm.create_pit2(), Ok(()));
    assert_eq!(vm.create_pit2(), Err(Errno::EEXIST));
    assert_eq!((vm.set_irq_line(4, true), vm.set_irq_line(4, false)), (Ok(()), Ok(())));
    let event = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    assert_eq!(vm.register_irqfd(&event, 4), Ok(()));
    assert_eq!(vm.register_irqfd(&event, 4), Err(Errno::EBUSY));
    let _vcpu = vm.create_vcpu(0).unwrap();
    assert_eq!(vm.set_identity_map_address(0xfffb_c000), Err(Errno::EINVAL), "too late");
}

#[test]
fn registers_that_do_not_go_together_are_refused() {
    let Some(system) = system("registers_that_do_not_go_together_are_refused") else { return };
    let guest = Guest::new(&system, 0);
    let mut vcpu = guest.vcpu(0);
    let mut sregs = vcpu.sregs().unwrap();
    sregs.cr4 &= !0x20; // long mode without PAE
    assert_eq!(vcpu.set_sregs(&sregs), Err(Errno::EINVAL));
    assert_eq!(vcpu.msr(0x1234_5678), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(0x1234_5678, 1), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_mp_state(99), Err(Errno::EINVAL));
}

#[test]
fn the_hosts_lists_are_not_empty() {
    let Some(system) = system("the_hosts_lists_are_not_empty") else { return };
    assert!(!system.supported_cpuid().unwrap().as_slice().is_empty());
    assert!(system.msr_indices().unwrap().contains(&0x10), "the time-stamp counter");
    system.feature_msr_indices().unwrap();
}

#[test]
fn a_forked_child_is_refused_with_eio() {
    let Some(system) = system("a_forked_child_is_refused_with_eio") else { return };
    let mut guest = Guest::new(&system, 4096);
    guest.add_logged(1, 64);
    let mut vcpu = guest.vcpu(0);
    let slot = SlotId::new(0, 1);
    // SAFETY: the child makes system calls on what it inherited and ends by _exit; no lock it takes is held
    // elsewhere.
    let child = unsafe { libc::fork() };
    assert_ne!(child, -1);
    if child == 0 {
        let refused = [
            guest.vm.check_extension(cap::DIRTY_LOG_RING) == Err(Errno::EIO),
            guest.vm.reset_dirty_rings() == Err(Errno::EIO),
            guest.vm.get_dirty_log(slot, &mut [0; 1]) == Err(Errno::EIO),
            guest.vm.set_memslot_flags(slot, 0) == Err(Errno::EIO),
            guest.vm.create_vcpu(9).map_err(Errno::from).err() == Some(Errno::EIO),
            vcpu.run() == Err(Errno::EIO),
            vcpu.regs() == Err(Errno::EIO),
        ];
        let wrong = (1..).zip(refused).find(|&(_, ok)| !ok).map_or(0, |(number, _)| number);
        // SAFETY: ends the child without running the parent's cleanup.
        unsafe { libc::_exit(wrong) };
    }
    let mut status = 0;
    // SAFETY: `status` is an int that waitpid fills.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "status {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "the number of the first call that was not refused");
    touch(&mut vcpu, DATA, 1, 1);
}
