//! Signals that keep arriving at a thread.

#![allow(unsafe_code, reason = "timers and signal handlers")]

use std::io;
use std::mem;
use std::ptr;
use std::time::Duration;

/// A timer that sends the calling thread a signal without effect every so often, until it is dropped.
#[derive(Debug)]
pub(super) struct Storm {
    timer: libc::timer_t,
}

extern "C" fn ignore(_signal: i32) {}

impl Storm {
    pub(super) fn start(every: Duration) -> io::Result<Self> {
        // One that neither the standard library nor the vCPUs' kick uses.
        let signal = libc::SIGRTMIN() + 7;
        // SAFETY: zeros are a valid sigaction, which is then given a handler that does nothing, and a valid sigset_t;
        // the calls read and write locals.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = ignore as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            if libc::sigaction(signal, &raw const action, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&raw mut set, signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        }
        // SAFETY: zeros are a valid sigevent, timer_t and itimerspec; the calls read and write locals.
        unsafe {
            let mut event: libc::sigevent = mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = mem::zeroed();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
                return Err(io::Error::last_os_error());
            }
            let storm = Self { timer };
            let period = libc::timespec {
                tv_sec: libc::time_t::try_from(every.as_secs()).map_err(io::Error::other)?,
                tv_nsec: libc::c_long::from(every.subsec_nanos().cast_signed()),
            };
            let times = libc::itimerspec { it_interval: period, it_value: period };
            if libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(storm)
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's own and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}
