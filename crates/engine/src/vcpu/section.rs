//! The moments in which a vCPU touches guest memory, and how a TLB flush waits for them.

use std::{
    hint,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// How often a flush looks before it gives the processor away.
const SPINS: u32 = 64;

/// Whether a vCPU is at this moment using a translation: odd inside, even outside.
///
/// # Why no store escapes a flush
///
/// A vCPU brackets every access by [`enter`](Self::enter) and [`leave`](Self::leave) and, inside, trusts a cached
/// translation only if it was made under the epoch that `enter` returned the VM's present value of. A flush changes page
/// state first (say, takes the right to write away), then advances the epoch, then waits here for every vCPU. The swap
/// in `enter`, the load of the epoch after it, the advance and the load in `wait` are all `SeqCst`, so they have one order,
/// and of the two sides at least one sees the other:
///
/// - the vCPU's load comes after the advance: its cached translations are void, it looks at the page state, and finds
///   the change, because the advance it read was made after it;
/// - or the flush's load comes after the swap: it sees an odd turn and waits until that turn has passed. The `Release`
///   of `leave` then makes the vCPU's store visible to whoever runs after the flush.
///
/// So once a flush has returned, every store through an old translation is in memory, and every later one faults. This
/// is what an inter-processor interrupt gives a kernel (`kvm_flush_remote_tlbs`).
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Section {
    turn: AtomicU64,
}

impl Section {
    /// Begins an access; only the vCPU's own thread calls this. Returns the epoch under which it runs.
    #[inline]
    pub(crate) fn enter(&self, epoch: &AtomicU64) -> u64 {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.swap(turn + 1, Ordering::SeqCst);
        epoch.load(Ordering::SeqCst)
    }

    /// Ends the access.
    #[inline]
    pub(crate) fn leave(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn + 1, Ordering::Release);
    }

    /// Waits until an access that was going on when this was called has ended.
    pub(crate) fn wait(&self) {
        let seen = self.turn.load(Ordering::SeqCst);
        if seen.is_multiple_of(2) {
            return;
        }
        let mut looks = 0;
        while self.turn.load(Ordering::Acquire) == seen {
            looks += 1;
            if looks < SPINS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::{Profile, System};

    /// Whether a flush has returned after a while, with a vCPU inside its section all the time or not.
    fn flush_returns(inside: bool) -> bool {
        let vm = System::new(Profile::x86()).create_vm();
        let _vcpu = vm.create_vcpu(0).unwrap();
        let shared = vm.vcpus().remove(0);
        let before = shared.section.enter(&vm.inner().epoch);
        if !inside {
            shared.section.leave();
        }
        let returned = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let flush = scope.spawn(|| {
                vm.inner().flush_remote_tlbs();
                returned.store(true, Ordering::Release);
            });
            while vm.inner().epoch.load(Ordering::SeqCst) == before {
                thread::yield_now();
            }
            if inside {
                (0..10_000).for_each(|_| thread::yield_now());
            } else {
                flush.join().unwrap();
            }
            let seen = returned.load(Ordering::Acquire);
            if inside {
                shared.section.leave();
            }
            seen
        });
        assert!(returned.load(Ordering::Acquire), "in the end it returns");
        seen
    }

    #[test]
    fn a_flush_waits_for_a_vcpu_inside_and_for_no_other() {
        assert!(!flush_returns(true));
        assert!(flush_returns(false));
    }
}
