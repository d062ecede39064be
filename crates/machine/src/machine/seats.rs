//! A vCPU with its kick, ready for its thread.

use crate::platform::{KvmCpu, SoftCpu};
use crate::threads::{Drain, Kick, Seat};

pub(super) fn kvm_seat(cpu: KvmCpu, drain: Drain) -> Seat {
    let handle = cpu.kick_handle();
    let kick: Kick = Box::new(move || {
        // EAGAIN: the queue of signals is full. The flag is set, so the vCPU leaves with the signals that fill it.
        if let Err(error) = handle.kick() {
            tracing::warn!(%error, "a kick was not delivered at once");
        }
    });
    Seat { cpu: Box::new(cpu), kick, drain }
}

pub(super) fn soft_seat(cpu: SoftCpu, drain: Drain) -> Seat {
    let handle = cpu.kick_handle();
    Seat { cpu: Box::new(cpu), kick: Box::new(move || handle.kick()), drain }
}
