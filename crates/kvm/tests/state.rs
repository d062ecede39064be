//! State saved from one VM and restored into another.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::Duration;

use common::*;
use ringmark_kvm::bindings::kvm_regs;
use ringmark_kvm::{Exit, Msr, Part, Sregs, StateError, System, Vcpu, VcpuState, VmState};

const XMM0: usize = 160;

/// Lets the vCPU run for a moment, then stops it and finishes what is pending.
fn run_a_while(vcpu: &mut Vcpu) {
    let kick = vcpu.kick_handle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(vcpu.run(), Ok(Exit::Interrupted));
            assert_eq!(vcpu.complete_pending(), Ok(Exit::Interrupted));
        });
        std::thread::sleep(Duration::from_millis(20));
        kick.kick().unwrap();
    });
}

/// A guest that counts in the first word of its data, stopped while it does.
fn counting(system: &System) -> (Guest, Vcpu) {
    let mut guest = Guest::new(system, 4096);
    guest.add_logged(1, 16);
    let mut vcpu = guest.vcpu(0);
    start(&mut vcpu, COUNT, kvm_regs { rdi: DATA, r15: 0x1234_5678_9abc_def0, ..Default::default() });
    while guest.memory(1).read(0) == 0 {
        run_a_while(&mut vcpu);
    }
    (guest, vcpu)
}

/// The same machine again, with nothing in it.
fn fresh(system: &System, like: &Guest) -> (Guest, Vcpu) {
    let mut guest = Guest::new(system, 4096);
    guest.add_logged(1, 16);
    for ((_, to), (_, from)) in guest.slots.iter().zip(&like.slots) {
        to.copy_from(from);
    }
    let vcpu = guest.vm.create_vcpu(0).unwrap();
    (guest, vcpu)
}

fn through_text(vm: &VmState, vcpu: &VcpuState) -> (VmState, VcpuState) {
    let vm = serde_json::from_str(&serde_json::to_string(vm).unwrap()).unwrap();
    let vcpu = serde_json::from_str(&serde_json::to_string(vcpu).unwrap()).unwrap();
    (vm, vcpu)
}

#[test]
fn a_counter_goes_on_in_another_vm() {
    let Some(system) = system("a_counter_goes_on_in_another_vm") else { return };
    let (old, old_vcpu) = counting(&system);
    let (vm_state, mut vcpu_state) = (old.vm.state().unwrap(), old_vcpu.state().unwrap());
    for absent in vm_state.absent.iter().chain(&vcpu_state.absent) {
        eprintln!("absent on this host: {} ({:?})", absent.what, absent.errno);
    }
    eprintln!(
        "saved: {} MSRs, XSAVE of {} bytes, {} irqchips, PIT2 {}, SREGS2 {}",
        vcpu_state.msrs.len(),
        vcpu_state.xsave.as_ref().map_or(0, |area| area.0.len()),
        vm_state.irqchips.len(),
        vm_state.pit2.is_some(),
        matches!(vcpu_state.sregs, Sregs::V2(_)),
    );
    // A value in the vector registers that only a real restore brings over: SSE state in use, XMM0 set.
    let area = &mut vcpu_state.xsave.as_mut().unwrap().0;
    area[512] |= 2;
    area[XMM0..XMM0 + 8].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
    let (vm_state, vcpu_state) = through_text(&vm_state, &vcpu_state);

    let (new, mut vcpu) = fresh(&system, &old);
    let count = new.memory(1).read(0);
    new.vm.set_state(&vm_state).unwrap();
    vcpu.set_state(&vcpu_state).unwrap();
    let again = vcpu.state().unwrap();
    assert_eq!(again.regs, vcpu_state.regs);
    assert_eq!(again.sregs, vcpu_state.sregs);
    assert_eq!(again.xcrs, vcpu_state.xcrs);
    assert_eq!(again.debug_regs, vcpu_state.debug_regs);
    assert_eq!(again.cpuid, vcpu_state.cpuid);
    assert_eq!(again.tsc_khz, vcpu_state.tsc_khz);
    assert_eq!(again.mp_state, vcpu_state.mp_state);
    assert_eq!(again.events, vcpu_state.events);
    let area = again.xsave.unwrap().0;
    assert_eq!(area[XMM0..XMM0 + 8], 0x0123_4567_89ab_cdef_u64.to_le_bytes());
    assert_eq!(again.absent, vcpu_state.absent);
    let chips = new.vm.state().unwrap().irqchips;
    assert_eq!(chips, vm_state.irqchips);

    while new.memory(1).read(0) < count + 1000 {
        run_a_while(&mut vcpu);
    }
    let regs = vcpu.regs().unwrap();
    assert_eq!((regs.rdi, regs.r15), (DATA, 0x1234_5678_9abc_def0));
    assert_eq!(old.memory(1).read(0), count, "the old one stands still");
}

#[test]
fn the_time_stamp_counter_goes_on() {
    let Some(system) = system("the_time_stamp_counter_goes_on") else { return };
    const TSC: u32 = 0x10;
    let (old, old_vcpu) = counting(&system);
    let state = old_vcpu.state().unwrap();
    let saved = state.msrs.iter().find(|msr| msr.index == TSC).unwrap().value;
    let (_new, mut vcpu) = fresh(&system, &old);
    vcpu.set_state(&state).unwrap();
    let now = vcpu.msr(TSC).unwrap();
    let khz = u64::from(state.tsc_khz.unwrap());
    assert!(now >= saved, "{now} after {saved}");
    assert!(now - saved < 60 * 1000 * khz, "{now} is more than a minute after {saved}");
}

#[test]
fn an_msr_that_refuses_its_value_is_named() {
    let Some(system) = system("an_msr_that_refuses_its_value_is_named") else { return };
    let (old, old_vcpu) = counting(&system);
    let mut state = old_vcpu.state().unwrap();
    state.msrs.insert(1, Msr { index: 0x1234_5678, value: 7 });
    let (_new, mut vcpu) = fresh(&system, &old);
    let error = vcpu.set_state(&state).unwrap_err();
    assert_eq!(error, StateError::Msr { index: 0x1234_5678, value: 7 });
    assert!(error.to_string().starts_with("MSR 0x12345678 cannot be restored on this host"));
}

#[test]
fn a_part_that_cannot_be_set_is_named() {
    let Some(system) = system("a_part_that_cannot_be_set_is_named") else { return };
    let (old, old_vcpu) = counting(&system);
    let (vm_state, good) = (old.vm.state().unwrap(), old_vcpu.state().unwrap());
    let refused = |change: &dyn Fn(&mut VcpuState)| {
        let mut state = good.clone();
        change(&mut state);
        let (_new, mut vcpu) = fresh(&system, &old);
        match vcpu.set_state(&state) {
            Err(StateError::Restore { part, .. }) => part,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|s| s.mp_state.as_mut().unwrap().0.mp_state = 99), Part::MpState);
    assert_eq!(refused(&|s| s.events.as_mut().unwrap().0.flags = 1 << 31), Part::VcpuEvents);
    assert_eq!(refused(&|s| s.xsave.as_mut().unwrap().0.resize(1 << 15, 1)), Part::Xsave);
    assert_eq!(refused(&|s| s.xsave.as_mut().unwrap().0[512..520].fill(0xff)), Part::Xsave);
    assert_eq!(refused(&|s| s.cpuid = vec![s.cpuid[0]; 257]), Part::Cpuid);
    let bare = system.create_vm().unwrap();
    match bare.set_state(&vm_state) {
        Err(StateError::Restore { part: Part::Irqchip(0), .. }) => {}
        other => panic!("{other:?}"),
    }
    let bare_state = bare.state().unwrap();
    assert!(bare_state.irqchips.is_empty() && bare_state.pit2.is_none());
    assert_eq!(bare_state.absent.len(), 4, "three chips and a timer: {:?}", bare_state.absent);
    let state = bare.create_vcpu(0).unwrap().state().unwrap();
    assert!(state.lapic.is_none());
    assert!(state.absent.iter().any(|absent| absent.what == Part::Lapic));
}
