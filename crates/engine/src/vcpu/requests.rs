//! What a vCPU is asked to look at before it runs guest code again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// `KVM_REQ_DIRTY_RING_SOFT_FULL`.
const SOFT_FULL: u32 = 1;
/// A pending signal.
const SIGNAL: u32 = 2;
/// An interrupt that makes the vCPU leave guest mode and come back, which empties its page-modification log.
const LEAVE_GUEST: u32 = 4;

/// `vcpu->requests`, the pending signal, and the `immediate_exit` byte of `struct kvm_run`.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pending: AtomicU32,
    immediate_exit: AtomicBool,
}

impl Requests {
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    fn raise(&self, request: u32) {
        self.pending.fetch_or(request, Ordering::Release);
    }

    /// Takes `request` if it is pending.
    fn take(&self, request: u32) -> bool {
        self.pending.load(Ordering::Relaxed) & request != 0
            && self.pending.fetch_and(!request, Ordering::Acquire) & request != 0
    }

    pub(crate) fn soft_full(&self) {
        self.raise(SOFT_FULL);
    }

    pub(super) fn take_soft_full(&self) -> bool {
        self.take(SOFT_FULL)
    }

    pub(super) fn signal(&self) {
        self.raise(SIGNAL);
    }

    pub(super) fn take_signal(&self) -> bool {
        self.take(SIGNAL)
    }

    pub(crate) fn leave_guest(&self) {
        self.raise(LEAVE_GUEST);
    }

    pub(super) fn take_leave_guest(&self) -> bool {
        self.take(LEAVE_GUEST)
    }

    pub(super) fn kick(&self) {
        self.set_immediate_exit(true);
        self.signal();
    }

    pub(super) fn set_immediate_exit(&self, on: bool) {
        self.immediate_exit.store(on, Ordering::Release);
    }

    pub(super) fn immediate_exit(&self) -> bool {
        self.immediate_exit.load(Ordering::Acquire)
    }
}
