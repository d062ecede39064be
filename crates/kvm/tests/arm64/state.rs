//! State saved from one VM and restored into another.

use ringmark_abi::Errno;
use ringmark_kvm::bindings::{KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED};
use ringmark_kvm::gic::{ctrl, gicd, group};
use ringmark_kvm::register::{self, x};
use ringmark_kvm::{Exit, Part, Power, StateError, Vcpu, VcpuState, VmState};

use crate::guest::*;
use crate::memory::system;

/// `MIDR_EL1`, which says what processor it is.
const MIDR: u64 = register::system(3, 0, 0, 0, 0);

fn through_bytes<T: serde::Serialize + serde::de::DeserializeOwned>(state: &T) -> T {
    let mut bytes = Vec::new();
    ciborium::into_writer(state, &mut bytes).unwrap();
    ciborium::from_reader(&bytes[..]).unwrap()
}

fn run_until(vcpu: &mut Vcpu, mut enough: impl FnMut() -> bool + Send) {
    let kick = vcpu.kick_handle();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| vcpu.run().map(|exit| exit == Exit::Interrupted));
        while !enough() {
            std::thread::yield_now();
        }
        kick.kick().unwrap();
        assert_eq!(running.join().unwrap(), Ok(true));
    });
    assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted));
}

/// Whether a register is the timer's, which goes on by itself.
fn of_the_timer(id: u64) -> bool {
    id & 0xff80 == register::system(3, 3, 14, 0, 0) & 0xff80
}

#[test]
fn a_counter_goes_on_in_another_vm() {
    let Some(system) = system("a_counter_goes_on_in_another_vm") else { return };
    let make = || {
        let mut guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
        guest.add_logged(1, 16);
        let vcpu = guest.vcpu(0, Power::On);
        (guest, vcpu)
    };
    let (old, mut old_vcpu) = make();
    let vector = old_vcpu.register_ids().unwrap().into_iter().find(|&id| register::bytes(id) == 16).unwrap();
    old_vcpu.set_register_bytes(vector, &[0xa5; 16]).unwrap();
    start(&mut old_vcpu, COUNT, &[0, DATA]);
    old_vcpu.set_register(x(29), 0x1234_5678_9abc_def0).unwrap();
    run_until(&mut old_vcpu, || old.memory(1).read(0) > 1000);
    let saved = old_vcpu.state().unwrap();
    eprintln!(
        "saved: {} registers, {} absent, events {}",
        saved.registers.len(),
        saved.absent.len(),
        saved.events.is_some()
    );
    assert_eq!(saved.mp_state, KVM_MP_STATE_RUNNABLE);
    assert_eq!(saved.absent, []);
    let saved: VcpuState = through_bytes(&saved);

    let (new, mut vcpu) = make();
    new.copy_memory(&old);
    vcpu.set_state(&saved).unwrap();
    let again = vcpu.state().unwrap();
    assert_eq!(again.registers.len(), saved.registers.len());
    for (is, was) in again.registers.iter().zip(&saved.registers) {
        assert!(is == was || is.id == was.id && of_the_timer(is.id), "{is:x?} was {was:x?}");
    }
    let before = new.memory(1).read(0);
    run_until(&mut vcpu, || new.memory(1).read(0) > before + 1000);
    assert_eq!(vcpu.register(x(29)), Ok(0x1234_5678_9abc_def0));
    assert_eq!(vcpu.register_bytes(vector), Ok(vec![0xa5; 16]));
    assert_eq!(harvest(&mut harvester(&vcpu), &new), [(1, 0)]);
}

#[test]
fn a_vcpu_that_was_off_stays_off() {
    let Some(system) = system("a_vcpu_that_was_off_stays_off") else { return };
    let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    let saved = guest.vcpu(0, Power::Off).state().unwrap();
    let mut on = guest.vcpu(1, Power::On);
    // Another vCPU's affinity is no state to take over; all else is.
    let mut other = saved.clone();
    other.registers.retain(|register| register.id != register::MPIDR_EL1);
    on.set_state(&other).unwrap();
    assert_eq!(on.mp_state(), Ok(KVM_MP_STATE_STOPPED));
    other.mp_state = KVM_MP_STATE_RUNNABLE;
    on.set_state(&other).unwrap();
    assert_eq!(on.mp_state(), Ok(KVM_MP_STATE_RUNNABLE));
}

#[test]
fn another_processor_is_refused_by_name() {
    let Some(system) = system("another_processor_is_refused_by_name") else { return };
    let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    let mut vcpu = guest.vcpu(0, Power::On);
    let mut state = vcpu.state().unwrap();
    let at = state.registers.iter().position(|register| register.id == MIDR).unwrap();
    vcpu.set_state(&state).unwrap();
    state.registers[at].value[0] ^= 0xff;
    let refused = vcpu.set_state(&state);
    assert_eq!(refused, Err(StateError::Restore { part: Part::Register(MIDR), errno: Errno::EINVAL }));
    eprintln!("{}", refused.unwrap_err());
}

#[test]
fn interrupts_of_every_kind_are_restored() {
    let Some(system) = system("interrupts_of_every_kind_are_restored") else { return };
    let make = || {
        let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
        let vcpus = [guest.vcpu(0, Power::On), guest.vcpu(1, Power::Off)];
        (guest, vcpus)
    };
    let (old, old_vcpus) = make();
    let (vgic, _) = old.add_interrupts(1);
    let fresh = old.vm.state().unwrap();
    let write = |offset: u32, value: u64| vgic.set_attr(group::DIST_REGS, offset.into(), value).unwrap();
    // Of the words for interrupts 32 to 63: 40 level, 41 edge, 42 active.
    write(gicd::CTLR, 2);
    write(gicd::IGROUPR + 4, 0xffff_ffff);
    write(gicd::ICFGR + 8, 2 << (2 * 9));
    write(gicd::IPRIORITYR + 40, 0xa0b0_c0d0);
    write(gicd::IROUTER + 40 * 8, 1);
    write(gicd::ISENABLER + 4, 0x700);
    write(gicd::ISACTIVER + 4, 0x400);
    old.vm.set_irq_line(1 << 24 | 40, true).unwrap();
    old.vm.set_irq_line(1 << 24 | 41, true).unwrap();
    old.vm.set_irq_line(1 << 24 | 41, false).unwrap();
    // Of vCPU 1: no generated interrupt but 3, private 20 enabled, with a priority, and a mask of priorities.
    let own = |offset: u32| 1 << 32 | 0x1_0000 | u64::from(offset);
    vgic.set_attr(group::REDIST_REGS, own(gicd::ICENABLER), 0xffff).unwrap();
    vgic.set_attr(group::REDIST_REGS, own(gicd::ISENABLER), 0x10_0008).unwrap();
    vgic.set_attr(group::REDIST_REGS, own(gicd::IPRIORITYR + 20), 0x40).unwrap();
    vgic.set_attr(group::REDIST_REGS, own(gicd::ISPENDR), 8).unwrap();
    vgic.set_attr(group::CPU_SYSREGS, 1 << 32 | 0xc230, 0xf0).unwrap();
    let saved = old.vm.state().unwrap();
    assert_ne!(saved, fresh);
    let state = saved.vgic.as_ref().unwrap();
    let value = |offset| state.distributor.iter().find(|(other, _)| *other == offset).unwrap().1;
    eprintln!(
        "saved: {} interrupts, {} distributor, {} redistributor, {} interface registers",
        state.interrupts,
        state.distributor.len(),
        state.cpus[1].redistributor.len(),
        state.cpus[1].interface.len(),
    );
    assert_eq!(state.line_levels[0], (32, 1 << 8), "the level of 40");
    assert_eq!(value(gicd::ISPENDR + 4), 1 << 9, "the edge of 41");
    assert_eq!(value(gicd::ISENABLER + 4), 0x700);
    assert_eq!(value(gicd::ISACTIVER + 4), 0x400);
    assert_eq!(value(gicd::IROUTER + 40 * 8), 1);
    drop(old_vcpus);

    let (new, _new_vcpus) = make();
    let missing = Err(StateError::Restore { part: Part::Vgic, errno: Errno::ENODEV });
    assert_eq!(new.vm.set_state(&saved), missing);
    let (vgic, _) = new.add_interrupts(1);
    // What is on already and was off must go off.
    vgic.set_attr(group::DIST_REGS, u64::from(gicd::ISENABLER) + 4, 0xffff_ffff).unwrap();
    vgic.set_attr(group::DIST_REGS, u64::from(gicd::ISACTIVER) + 4, 0xffff_ffff).unwrap();
    let saved: VmState = through_bytes(&saved);
    new.vm.set_state(&saved).unwrap();
    let again = new.vm.state().unwrap();
    // Part by part first, for a message that can be read.
    let (is, was) = (again.vgic.as_ref().unwrap(), saved.vgic.as_ref().unwrap());
    assert_eq!(differences(&is.distributor, &was.distributor), []);
    for (is, was) in is.cpus.iter().zip(&was.cpus) {
        assert_eq!(differences(&is.redistributor, &was.redistributor), []);
        assert_eq!(differences(&is.interface, &was.interface), []);
    }
    assert_eq!(again.vgic, saved.vgic);
    // The address of a table that was never set comes back with the memory attributes that the kernel adds to any.
    let (is, was) = (&again.its[0].registers, &saved.its[0].registers);
    eprintln!("the ITS's registers that differ: {:x?}", differences(is, was));
    assert!(
        differences(is, was)
            .iter()
            .all(|&((offset, is), (_, was))| offset == 0x80 && was == 0 && is >> 63 == 0)
    );
}

#[test]
fn state_of_another_machine_is_refused_by_part() {
    let Some(system) = system("state_of_another_machine_is_refused_by_part") else { return };
    let refused = |part, errno| Err(StateError::Restore { part, errno });
    let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    let mut vcpu = guest.vcpu(0, Power::On);
    guest.add_interrupts(1);
    let state = guest.vm.state().unwrap();
    guest.vm.set_state(&state).unwrap();

    let mut other = state.clone();
    other.its.push(other.its[0].clone());
    assert_eq!(guest.vm.set_state(&other), refused(Part::Its(1), Errno::ENODEV));
    let mut other = state.clone();
    other.its[0].address += 0x10_0000;
    assert_eq!(guest.vm.set_state(&other), refused(Part::ItsAddress(0), Errno::EEXIST));
    let mut other = state.clone();
    other.vgic.as_mut().unwrap().interrupts += 32;
    assert_eq!(guest.vm.set_state(&other), refused(Part::NrIrqs, Errno::EINVAL));
    let mut other = state.clone();
    other.vgic.as_mut().unwrap().cpus[0].vcpu = 7;
    assert_eq!(guest.vm.set_state(&other), refused(Part::Vgic, Errno::ENOENT));
    let mut other = state.clone();
    other.vgic.as_mut().unwrap().distributor.push((u32::MAX, 0));
    assert_eq!(guest.vm.set_state(&other), refused(Part::Vgic, Errno::EINVAL), "an unknown register");
    let mut other = state.clone();
    other.vgic.as_mut().unwrap().cpus[0].interface.pop();
    assert_eq!(guest.vm.set_state(&other), refused(Part::Vgic, Errno::EINVAL), "a missing register");
    let mut other = state;
    other.its[0].registers.swap(0, 1);
    assert_eq!(guest.vm.set_state(&other), refused(Part::Its(0), Errno::EINVAL), "not in order");

    let mut other = vcpu.state().unwrap();
    let last = other.registers.last_mut().unwrap();
    last.value.clear();
    let id = last.id;
    assert_eq!(vcpu.set_state(&other), refused(Part::Register(id), Errno::EINVAL), "a value cut short");
    // As wide as a name can say, and no name of the architecture.
    let last = other.registers.last_mut().unwrap();
    (last.id, last.value) = (u64::MAX, vec![0; 1 << 15]);
    assert_eq!(vcpu.set_state(&other), refused(Part::Register(u64::MAX), Errno::EINVAL));
}

/// The registers that differ, as they are and as they were.
fn differences<T: Copy + PartialEq>(is: &[(u32, T)], was: &[(u32, T)]) -> Vec<((u32, T), (u32, T))> {
    is.iter().copied().zip(was.iter().copied()).filter(|(is, was)| is != was).collect()
}

#[test]
fn state_of_the_interrupt_controller_needs_it_whole() {
    let Some(system) = system("state_of_the_interrupt_controller_needs_it_whole") else { return };
    let guest = Guest::new(&system, Tracking::RingWithBitmap(4096));
    assert_eq!(guest.vm.state(), Ok(VmState { vgic: None, its: Vec::new() }));
    assert_eq!(guest.vm.save_pending_tables(), Ok(()));
    assert_eq!(guest.vm.save_its_tables(), Ok(()));
    let vcpu = guest.vcpu(0, Power::On);
    let (vgic, _) = guest.add_interrupts(1);
    let state = guest.vm.state().unwrap();
    assert_eq!((state.its.len(), state.its[0].address), (1, its_frame(0)));
    assert_eq!(vgic.get_attr(group::CTRL, ctrl::INIT, &mut 0), Err(Errno::ENXIO));
    assert_eq!(
        guest.vm.create_device(ringmark_kvm::gic::device_type::ARM_VGIC_V3).err(),
        Some(Errno::EEXIST)
    );
    assert_eq!(guest.vm.create_device(4).err(), Some(Errno::ENODEV), "VFIO's, which is none of ours");
    assert_eq!(guest.vm.create_device(999).err(), Some(Errno::ENODEV));
    drop(vcpu);
}
