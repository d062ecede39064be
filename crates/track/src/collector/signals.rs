//! Blocking every signal of a thread.

#![allow(unsafe_code, reason = "pthread_sigmask has no safe form in the standard library")]

use std::mem::MaybeUninit;
use std::ptr;

use ringmark_dirty::mutant::{self, Mutant};

/// Blocks every signal that can be blocked, for the calling thread and its life.
///
/// What cannot be blocked (`SIGSTOP`, a debugger, the freezer) can still cut a reset short; its count is checked for
/// that.
pub(super) fn block_all() {
    if mutant::active(Mutant::SignalsNotBlocked) {
        return;
    }
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set it is given, which is one; it fails only for a null pointer.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised above, the old mask is not wanted, and SIG_SETMASK is a valid operation, so the
    // call cannot fail; it changes the mask of this thread only.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut()) };
}
