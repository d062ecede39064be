//! Work that waits for everybody else's.

/// Lets the calling thread run only where a processor has nothing else to do: sched(7), `SCHED_IDLE`.
///
/// The greatest `nice` value is not enough: a thread that has it holds a processor for a whole slice, 3 or 4 ms, while a vCPU
/// that was just woken waits behind it; to a wakeup a processor that runs such a thread as this is idle. There is no way back
/// without privileges, so it is for threads that do nothing else.
#[allow(unsafe_code, reason = "no safe wrapper among the dependencies")]
pub(crate) fn only_when_idle() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads `parameters`, which lives; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "asks what was set")]
    fn a_thread_can_be_made_to_wait_for_all_others() {
        let policy = std::thread::spawn(|| {
            only_when_idle().unwrap();
            // SAFETY: no memory is involved.
            unsafe { libc::sched_getscheduler(0) }
        });
        assert_eq!(policy.join().unwrap(), libc::SCHED_IDLE);
    }
}
