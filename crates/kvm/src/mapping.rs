//! A mapping of a vCPU's file descriptor that is unmapped when it is dropped.

#![allow(unsafe_code, reason = "mmap and munmap")]

use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use ringmark_abi::Errno;

use crate::errno;

/// Memory that the kernel shares with user space through a file descriptor.
///
/// The mapping holds the file, the file holds the vCPU and the vCPU holds the VM: it stays valid after every
/// descriptor is closed.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; how it may be accessed is for the users of `start`.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; `Mapping` itself reads and writes nothing.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from byte `offset`, at an address of the kernel's choice.
    pub(crate) fn new(
        fd: &impl AsRawFd,
        offset: u64,
        len: usize,
        prot: i32,
        flags: i32,
    ) -> Result<Self, Errno> {
        if flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // SAFETY: without MAP_FIXED (refused above) a new mapping replaces nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, len })
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes, as it was asked for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are those of one mmap that only `self` owns; references into it borrow `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
