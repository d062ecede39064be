//! A vCPU with its kick, ready for its thread.

use crate::platform::{KvmCpu, SoftCpu};
use crate::threads::{Kick, Seat, VcpuRing};

pub(super) fn kvm_seat(cpu: KvmCpu, ring: VcpuRing) -> Seat {
    let kick = || -> Kick {
        let handle = cpu.kick_handle();
        Box::new(move || {
            // EAGAIN: the queue of signals is full. The flag is set, so the vCPU leaves with the signals that fill it.
            if let Err(error) = handle.kick() {
                tracing::warn!(%error, "a kick was not delivered at once");
            }
        })
    };
    let kick = stopping(kick(), kick(), &ring);
    Seat { cpu: Box::new(cpu), kick, ring }
}

pub(super) fn soft_seat(cpu: SoftCpu, ring: VcpuRing) -> Seat {
    let kick = || -> Kick {
        let handle = cpu.kick_handle();
        Box::new(move || handle.kick())
    };
    let kick = stopping(kick(), kick(), &ring);
    Seat { cpu: Box::new(cpu), kick, ring }
}

/// The kick of whoever stops the vCPU, wherever it is; `kick_out` is the throttle's, which wants it out of the guest.
fn stopping(kick: Kick, kick_out: Kick, ring: &VcpuRing) -> Kick {
    ring.kick_with(kick_out);
    let ring = ring.clone();
    Box::new(move || {
        ring.wake();
        kick();
    })
}
