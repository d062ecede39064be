//! A guest that never ends is taken out of its run: what a case's time limit relies on.

use std::thread;
use std::time::Duration;

use ringmark_abi::Errno;
use ringmark_conformance::{Program, Rules, TargetKind, Wish, open};

fn spin_and_kick(kind: TargetKind) {
    let target = match open(kind) {
        Ok(target) => target,
        Err(error) => {
            eprintln!("SKIPPED spinning vCPU on {kind:?}: {error}");
            return;
        }
    };
    let vm = target.create_vm(Wish::default()).expect("a VM");
    let mut vcpu = vm.create_vcpu(0).expect("a vCPU");
    vcpu.load(&Program::Spin).expect("a program");
    let kick = vcpu.kicker();
    let spinning = thread::spawn(move || vcpu.run());
    // Often before the vCPU is inside, sometimes after: both must end the run.
    thread::sleep(Duration::from_millis(5));
    kick();
    assert_eq!(spinning.join().expect("no panic"), Err(Errno::EINTR));
}

#[test]
fn a_spinning_engine_vcpu_is_kicked_out() {
    spin_and_kick(TargetKind::Engine { rules: Rules::X86 });
    spin_and_kick(TargetKind::Engine { rules: Rules::Arm64 });
}

#[test]
fn a_spinning_kvm_vcpu_is_kicked_out() {
    spin_and_kick(TargetKind::Kvm);
}
