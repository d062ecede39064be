//! Child processes that ask one question and are gone.

#![allow(unsafe_code, reason = "fork")]

use std::io;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildEnd {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Runs `question` in a forked child and returns how it ended; its return value is the exit code (0 to 255).
///
/// # Safety
/// The child is a copy of one thread of a process that may have many: `question` takes no lock, allocates nothing and
/// does nothing else that `signal-safety(7)` does not allow.
pub(crate) unsafe fn ask_child(question: impl FnOnce() -> i32) -> io::Result<ChildEnd> {
    // SAFETY: the child does only what the caller promises, sets a limit, and ends without running destructors.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: setrlimit and _exit are plain system calls; the limit is a local.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
                libc::_exit(question())
            }
        }
        child => {
            let mut status = 0;
            loop {
                // SAFETY: the child is ours and was not waited for; `status` is a local.
                if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
                    break;
                }
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(if libc::WIFSIGNALED(status) {
                ChildEnd::Signal(libc::WTERMSIG(status))
            } else {
                ChildEnd::Code(libc::WEXITSTATUS(status))
            })
        }
    }
}
