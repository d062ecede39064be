//! A mapping that is registered with a userfaultfd.

#![allow(unsafe_code, reason = "the promise about the mapping is taken here")]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::{Userfaultfd, sys};

/// A mapping that is registered, until this is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    uffd: Arc<Userfaultfd>,
    start: u64,
    len: u64,
    page: u64,
}

impl Mapping {
    /// # Safety
    /// `len` bytes from `start` on stay mapped while this lives, and nobody holds a Rust reference into them: their contents
    /// and whether a touch of them waits are changed behind the compiler's back.
    pub(crate) unsafe fn register(
        uffd: &Arc<Userfaultfd>,
        start: NonNull<u8>,
        len: usize,
        mode: u64,
    ) -> io::Result<Self> {
        let range = sys::Range { start: start.as_ptr().expose_provenance() as u64, len: len as u64 };
        let mut register = sys::Register { range, mode, ioctls: 0 };
        uffd.ioctl(sys::UFFDIO_REGISTER, &mut register)?;
        Ok(Self { uffd: Arc::clone(uffd), start: range.start, len: range.len, page: page_size() })
    }

    pub(crate) fn uffd(&self) -> &Userfaultfd {
        &self.uffd
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn page(&self) -> u64 {
        self.page
    }

    /// The addresses of `len` bytes at `offset`, which are whole pages of the mapping.
    pub(crate) fn range(&self, offset: u64, len: u64) -> io::Result<sys::Range> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(self.page) || !len.is_multiple_of(self.page) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(sys::Range { start: self.start + offset, len })
    }
}

impl Drop for Mapping {
    /// Makes the mapping an ordinary one and wakes whoever waits.
    fn drop(&mut self) {
        let mut range = sys::Range { start: self.start, len: self.len };
        // Closing the descriptor does the same; there is nothing else to do where these fail.
        let _ = self.uffd.ioctl(sys::UFFDIO_UNREGISTER, &mut range);
        // `userfaultfd_unregister` wakes *before* it takes the mapping's lock for writing, so a fault under the lock of the
        // mapping alone (Linux 6.6) can begin to wait in between, and would for ever. After it has returned none begins.
        let _ = self.uffd.ioctl(sys::UFFDIO_WAKE, &mut range);
    }
}

/// The page size of this host.
pub(crate) fn page_size() -> u64 {
    // SAFETY: a query without arguments in memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // Every kernel answers it.
    u64::try_from(size).unwrap_or(1)
}
