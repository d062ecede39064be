//! From the error types of the field's crates to the interface's.

use std::io;

use ringmark_abi::Errno;

/// The error number the last failed call left in this thread.
pub(crate) fn last() -> Errno {
    Errno::from_raw(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The error number inside a `kvm-ioctls` error.
pub(crate) fn of(error: vmm_sys_util::errno::Error) -> Errno {
    Errno::from_raw(error.errno())
}
