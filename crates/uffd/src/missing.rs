//! Pages that are put in place when somebody wants them.

#![allow(unsafe_code, reason = "the promise about the mapping is passed on")]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::mapping::Mapping;
use crate::{Userfaultfd, sys};

/// A mapping whose missing pages stop whoever touches them.
///
/// A page is missing while the memory object has none at that place; [`fill`](Self::fill) and [`zero`](Self::zero) put one
/// there, never over another, and wake who waits for it. Dropped, the mapping is ordinary again and everyone is woken:
/// what was never filled reads as zero.
///
/// Reads of the memory object by other ways (`pread` of a memfd, another mapping) do not stop: they find a hole.
#[derive(Debug)]
pub struct MissingPages {
    mapping: Mapping,
}

/// A page could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("{len} bytes at byte {offset} of the mapping could not be put in place: {source}")]
pub struct FillError {
    /// From the start of the mapping.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// The kernel's answer.
    pub source: io::Error,
}

impl MissingPages {
    /// Registers `len` bytes from `start` on: a mapping of shared memory (a memfd), whole pages.
    ///
    /// A private mapping will do, too: its pages are missing while the memory object has none. But what [`fill`](Self::fill)
    /// and [`zero`](Self::zero) put there is that mapping's alone; to share it, it is put into the memory object by another
    /// way, and [`wake`](Self::wake) called.
    ///
    /// # Errors
    /// The kernel's refusal: `EINVAL` for memory of a kind or alignment it cannot do, `EBUSY` for a mapping that another
    /// userfaultfd has.
    ///
    /// # Safety
    /// The bytes stay mapped while this lives, and nobody holds a Rust reference into them.
    pub unsafe fn register(uffd: &Arc<Userfaultfd>, start: NonNull<u8>, len: usize) -> io::Result<Self> {
        // SAFETY: the caller's promise.
        let mapping = unsafe { Mapping::register(uffd, start, len, sys::REGISTER_MODE_MISSING) }?;
        Ok(Self { mapping })
    }

    /// Bytes of the mapping.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> u64 {
        self.mapping.len()
    }

    /// Where the page of `address` begins, from the start of the mapping; `None` if it is of another.
    #[must_use]
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.mapping.start())?;
        (offset < self.mapping.len()).then(|| offset - offset % self.mapping.page())
    }

    /// Puts `bytes`, whole pages, at byte `offset`. Pages that are there already stay as they are. Whoever waits for one of
    /// them is woken. Each page appears whole (`mfill_atomic`).
    ///
    /// # Errors
    /// What is left out then is still missing.
    pub fn fill(&self, offset: u64, bytes: &[u8]) -> Result<(), FillError> {
        let source = bytes.as_ptr().expose_provenance() as u64;
        self.place(offset, bytes.len() as u64, |range, done| {
            let mut copy =
                sys::Copy { dst: range.start, src: source + done, len: range.len, mode: 0, copy: 0 };
            let result = self.mapping.uffd().ioctl(sys::UFFDIO_COPY, &mut copy);
            (result, copy.copy)
        })
    }

    /// Puts `len` bytes of zeros, whole pages, at byte `offset`; otherwise as [`fill`](Self::fill).
    ///
    /// # Errors
    /// What is left out then is still missing.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), FillError> {
        self.place(offset, len, |range, _| {
            let mut zero = sys::ZeroPage { range, mode: 0, zeropage: 0 };
            let result = self.mapping.uffd().ioctl(sys::UFFDIO_ZEROPAGE, &mut zero);
            (result, zero.zeropage)
        })
    }

    /// Wakes whoever waits for the page at byte `offset`, which was put into the memory object by another way, such as
    /// another mapping of it: whoever waited looks again.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn wake(&self, offset: u64) -> io::Result<()> {
        let mut page = self.mapping.range(offset, self.mapping.page())?;
        self.mapping.uffd().ioctl(sys::UFFDIO_WAKE, &mut page)
    }

    /// Has `put` place all of a range, going on after each page that is there already.
    fn place(
        &self,
        offset: u64,
        len: u64,
        mut put: impl FnMut(sys::Range, u64) -> (io::Result<()>, i64),
    ) -> Result<(), FillError> {
        let failed = |source| FillError { offset, len, source };
        let mut done = 0;
        while done < len {
            let range = self.mapping.range(offset + done, len - done).map_err(failed)?;
            let (result, placed) = put(range, done);
            match result {
                Ok(()) => break,
                Err(error) => {
                    let placed = u64::try_from(placed).unwrap_or(0);
                    done += placed;
                    match error.raw_os_error() {
                        // Interrupted between two pages, or by a change of the address space.
                        Some(libc::EAGAIN) => {}
                        Some(libc::EEXIST) => {
                            // Somebody else has placed it; who began to wait after that one's wake-up is woken here.
                            self.wake(offset + done).map_err(failed)?;
                            done += self.mapping.page();
                        }
                        _ => return Err(failed(error)),
                    }
                }
            }
        }
        Ok(())
    }
}
