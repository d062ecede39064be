//! Exits, registers and kicks.

use std::time::Duration;

use ringmark_abi::Errno;
use ringmark_kvm::bindings::{KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED, KVM_SYSTEM_EVENT_SHUTDOWN};
use ringmark_kvm::register::{self, MPIDR_EL1, PC, PSTATE, SP_EL0, SP_EL1, x};
use ringmark_kvm::{Exit, Power};

use crate::guest::*;
use crate::memory::system;

#[test]
fn a_vcpu_is_nothing_before_it_is_initialised() {
    let Some(system) = system("a_vcpu_is_nothing_before_it_is_initialised") else { return };
    let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    let mut vcpu = guest.vm.create_vcpu(0).unwrap();
    let not_yet = Errno::from_raw(libc::ENOEXEC);
    assert_eq!(vcpu.register(PC), Err(not_yet));
    assert_eq!(vcpu.register_ids(), Err(not_yet));
    assert_eq!(vcpu.run(), Err(not_yet));
    vcpu.init(Power::On).unwrap();
    assert_eq!(vcpu.mp_state(), Ok(KVM_MP_STATE_RUNNABLE));
    for (n, id) in (1..).zip([x(0), x(30), PC, SP_EL0, SP_EL1]) {
        vcpu.set_register(id, n * 0x1000).unwrap();
        assert_eq!(vcpu.register(id), Ok(n * 0x1000));
    }
    assert_eq!(vcpu.register(PSTATE), Ok(0x3c5), "EL1 with interrupts masked");
    assert_eq!(vcpu.register(MPIDR_EL1), Ok(0x8000_0000));
    assert_eq!(vcpu.register(register::system(3, 7, 15, 15, 7)), Err(Errno::ENOENT));
    vcpu.init(Power::On).unwrap();
    assert_eq!(vcpu.register(x(30)), Ok(0), "the second time is a reset");
}

#[test]
fn every_register_of_the_list_has_the_size_that_its_name_says() {
    let Some(system) = system("every_register_of_the_list_has_the_size_that_its_name_says") else { return };
    let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    let vcpu = guest.vcpu(0, Power::On);
    let ids = vcpu.register_ids().unwrap();
    let mut sizes = std::collections::BTreeMap::<_, u32>::new();
    for &id in &ids {
        *sizes.entry(vcpu.register_bytes(id).unwrap().len()).or_default() += 1;
    }
    eprintln!("{} registers, bytes and how many of each: {sizes:?}", ids.len());
    assert!(ids.contains(&PC) && ids.contains(&x(30)) && ids.contains(&MPIDR_EL1));
    assert_eq!(sizes.get(&16), Some(&32), "the vector registers");
    let wide = ids.iter().copied().find(|&id| register::bytes(id) == 16).unwrap();
    assert_eq!(vcpu.register(wide), Err(Errno::EINVAL), "no 64-bit register");
}

#[test]
fn a_device_access_is_served_and_finished() {
    let Some(system) = system("a_device_access_is_served_and_finished") else { return };
    let mut guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    guest.add_logged(1, 1);
    let mut vcpu = guest.vcpu(0, Power::On);
    start(&mut vcpu, READ, &[0, DATA]);
    match vcpu.run() {
        Ok(Exit::MmioRead { address: DONE, data }) => data.copy_from_slice(&0x1234_5678_u32.to_le_bytes()),
        other => panic!("no device was read: {other:?}"),
    }
    assert_eq!(vcpu.register(x(0)), Ok(0), "the access is pending");
    assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted));
    assert_eq!(vcpu.register(x(0)), Ok(0x1234_5678));
    assert_eq!(run_through(&mut vcpu, || panic!("the ring is full")), 0x1234_5678);
    assert_eq!(guest.memory(1).read(0), 0x1234_5678);
}

#[test]
fn the_firmware_switches_the_machine_off() {
    let Some(system) = system("the_firmware_switches_the_machine_off") else { return };
    let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    let mut vcpu = guest.vcpu(0, Power::On);
    start(&mut vcpu, CALL, &[0x8400_0008]);
    assert_eq!(vcpu.run(), Ok(Exit::SystemEvent { kind: KVM_SYSTEM_EVENT_SHUTDOWN }));
}

#[test]
fn a_secondary_waits_until_it_is_switched_on() {
    let Some(system) = system("a_secondary_waits_until_it_is_switched_on") else { return };
    let mut guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    guest.add_logged(1, 16);
    let mut first = guest.vcpu(0, Power::On);
    let mut second = guest.vcpu(1, Power::Off);
    assert_eq!(second.mp_state(), Ok(KVM_MP_STATE_STOPPED));
    assert_eq!(second.complete_pending(), Ok(Exit::Interrupted));
    let argument = DATA + 3 * PAGE;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run_through(&mut second, || panic!("the ring is full")));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        start(&mut first, CALL, &[0xc400_0003, 1, SECONDARY.at, argument]);
        assert_eq!(run_through(&mut first, || panic!("the ring is full")), 0, "PSCI's success");
        assert_eq!(u64::from(waiting.join().unwrap()), argument);
    });
    assert_eq!(second.mp_state(), Ok(KVM_MP_STATE_RUNNABLE));
    assert_eq!(guest.memory(1).read(3 * PAGE), argument);
    assert_eq!(harvest(&mut harvester(&second), &guest), [(1, 3)]);
    assert_eq!(harvest(&mut harvester(&first), &guest), []);
}

#[test]
fn a_kick_takes_a_running_vcpu_out() {
    let Some(system) = system("a_kick_takes_a_running_vcpu_out") else { return };
    let mut guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    guest.add_logged(1, 1);
    let mut vcpu = guest.vcpu(0, Power::On);
    start(&mut vcpu, COUNT, &[0, DATA]);
    for _ in 0..20 {
        let kick = vcpu.kick_handle();
        let before = guest.memory(1).read(0);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| vcpu.run().map(|exit| exit == Exit::Interrupted));
            while guest.memory(1).read(0) == before {
                std::thread::yield_now();
            }
            kick.kick().unwrap();
            assert_eq!(running.join().unwrap(), Ok(true));
        });
    }
}
