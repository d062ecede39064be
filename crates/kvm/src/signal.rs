//! The signal that takes a thread out of `KVM_RUN`.

#![allow(unsafe_code, reason = "sigaction, pthread_sigmask and tgkill")]

use std::cell::Cell;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use ringmark_abi::Errno;

use crate::errno;

/// The signal of a kick: the first real-time signal that the C library leaves free.
fn number() -> c_int {
    libc::SIGRTMIN()
}

/// Does nothing: that the signal is *delivered* is what makes `KVM_RUN` return.
extern "C" fn nothing(_: c_int) {}

/// Gives the signal its empty handler, once a process.
pub(crate) fn install() -> Result<(), Errno> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        let handler: extern "C" fn(c_int) = nothing;
        // SAFETY: all fields of a sigaction may be zero; it then holds an address, a flag word and an empty mask.
        let action = unsafe { action.assume_init_mut() };
        action.sa_sigaction = handler as *const () as usize;
        // KVM_RUN returns EINTR in any case. What else the thread was doing, it goes on doing.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing, so it is safe at any instant of any thread.
        match unsafe { libc::sigaction(number(), action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(errno::last()),
        }
    })
}

/// The kernel's number of this thread, with the signal unblocked in it.
///
/// Threads inherit the mask of the thread that made them, which may well have had everything blocked. It is undone
/// once a thread; a thread that blocks the signal afterwards cannot be kicked.
pub(crate) fn receive_here() -> Result<c_int, Errno> {
    thread_local! { static THREAD: Cell<c_int> = const { Cell::new(0) } }
    THREAD.with(|thread| {
        if thread.get() == 0 {
            unblock()?;
            // SAFETY: gettid touches no memory.
            thread.set(unsafe { libc::gettid() });
        }
        Ok(thread.get())
    })
}

fn unblock() -> Result<(), Errno> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set, and the other two are given that set.
    let error = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), number());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(Errno::from_raw(error)) }
}

/// Sends the signal to thread `thread` of this process, if there is one.
///
/// A number that has meanwhile passed to another thread of the process interrupts that one, which the empty handler
/// and `SA_RESTART` make harmless. It cannot reach another process.
pub(crate) fn send(thread: c_int) -> Result<(), Errno> {
    // SAFETY: tgkill takes numbers only; the handler is installed, so the signal ends nobody.
    let ret = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, number()) };
    if ret == 0 {
        return Ok(());
    }
    match errno::last() {
        errno if errno.raw() == libc::ESRCH => Ok(()),
        errno => Err(errno),
    }
}
