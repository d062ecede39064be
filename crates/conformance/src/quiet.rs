//! Threads that no signal disturbs.

#![allow(unsafe_code, reason = "the signal mask")]

use std::mem;
use std::ptr;

/// Blocks every signal in the calling thread. Those that a fault raises, and those that code here or in a vCPU's run
/// unblocks, still arrive.
pub(crate) fn block_signals() {
    // SAFETY: zeros are a valid sigset_t, which is then filled; the calls access a local and this thread's mask.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
    }
}
