//! Resets amid signals.

#![allow(unsafe_code, reason = "signals and timers of one thread")]

use std::mem::zeroed;
use std::ptr;
use std::sync::Once;
use std::time::Duration;

use ringmark_abi::{Errno, Vm};

/// A signal that nothing else of a process is likely to use, ignored by default, and not queued: one that is pending
/// stands for all.
pub(crate) const SIGNAL: libc::c_int = libc::SIGURG;

/// Gives [`SIGNAL`] a handler that does nothing. Without one it would be dropped instead of becoming pending; system
/// calls that can be restarted are.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: a sigaction may be zero; the handler touches nothing and is safe at any instant.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(SIGNAL, &raw const action, ptr::null_mut());
        }
    });
}

/// Between two signals: much longer than delivering one takes, or the thread would do nothing else.
const EVERY: Duration = Duration::from_micros(100);

/// `KVM_RESET_DIRTY_RINGS` while signals arrive at the calling thread, however its mask is set: the first after `delay`,
/// then ten a millisecond.
///
/// A kernel since 6.16 that is interrupted returns before it has re-protected up to 64 pages that it counts.
///
/// # Errors
/// As [`Vm::reset_dirty_rings`]; `EAGAIN` where there is no timer to be had.
pub fn reset_amid_signals(vm: &dyn Vm, delay: Duration) -> Result<u32, Errno> {
    let _fire = Fire::open(delay)?;
    vm.reset_dirty_rings()
}

/// A timer that signals the thread that made it, which takes the signal until this is dropped.
struct Fire {
    timer: libc::timer_t,
    mask: libc::sigset_t,
}

impl Fire {
    fn open(delay: Duration) -> Result<Self, Errno> {
        listen();
        let spec = |time: Duration| libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            // 0 would be a timer that never fires.
            tv_nsec: libc::c_long::from(time.subsec_nanos().max(1).cast_signed()),
        };
        let times = libc::itimerspec { it_interval: spec(EVERY), it_value: spec(delay) };
        // SAFETY: a sigevent and a sigset_t may be zero; the calls read and write the locals they are given, make a timer
        // of this value's own and change the mask of this thread only.
        unsafe {
            let mut event: libc::sigevent = zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = SIGNAL;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = ptr::null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
                return Err(Errno::EAGAIN);
            }
            let mut open: libc::sigset_t = zeroed();
            libc::sigemptyset(&raw mut open);
            libc::sigaddset(&raw mut open, SIGNAL);
            let mut mask: libc::sigset_t = zeroed();
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const open, &raw mut mask);
            libc::timer_settime(timer, 0, &raw const times, ptr::null_mut());
            Ok(Self { timer, mask })
        }
    }
}

impl Drop for Fire {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's own; the mask is the one that this thread had. A value does not leave its
        // thread, for `timer_t` is a pointer.
        unsafe {
            libc::timer_delete(self.timer);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, ptr::null_mut());
        }
    }
}
