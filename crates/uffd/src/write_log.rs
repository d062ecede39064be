//! Which pages were written, by the host's own page tables.

#![allow(unsafe_code, reason = "the promise about the mapping is passed on")]

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::mapping::Mapping;
use crate::pagemap::{Find, Pagemap};
use crate::{Userfaultfd, sys};

/// A mapping whose written pages are known.
///
/// Every page is write-protected in the page table; the kernel resolves the first write to it by itself and leaves it
/// unprotected, which is the record. [`take`](Self::take) collects these and protects them again. Seen is every write that
/// goes through this mapping: this process's own, the kernel's on its behalf, and a guest's, whose hypervisor maps a page
/// writable only where the host's entry is (`hva_to_pfn`) and gives it up when it is protected (MMU notifiers). Not seen are
/// writes by another mapping or through the memory's file.
///
/// What it says is a superset of what changed: a page that was opened for writing counts as written, and where the mapping
/// is backed by huge pages, one write counts for all pages under one entry.
#[derive(Debug)]
pub struct WriteLog {
    mapping: Mapping,
    pagemap: Pagemap,
}

/// Written pages could not be collected.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed: {source}; any page of the mapping may have been written")]
pub struct WriteLogError {
    /// What was being done.
    pub doing: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

impl WriteLog {
    /// Registers `len` bytes from `start` on with `uffd`, which has [`WRITE_LOG`](crate::Features::WRITE_LOG) on. Nothing is
    /// protected before [`protect`](Self::protect).
    ///
    /// # Errors
    /// The kernel's refusal.
    ///
    /// # Safety
    /// The bytes stay mapped while this lives, and nobody holds a Rust reference into them.
    pub unsafe fn register(
        uffd: &Arc<Userfaultfd>,
        start: NonNull<u8>,
        len: usize,
    ) -> Result<Self, WriteLogError> {
        // SAFETY: the caller's promise.
        let mapping = unsafe { Mapping::register(uffd, start, len, sys::REGISTER_MODE_WP) };
        let mapping = mapping.map_err(failed("registering the mapping for write protection"))?;
        let pagemap = Pagemap::open().map_err(failed("opening /proc/self/pagemap"))?;
        Ok(Self { mapping, pagemap })
    }

    /// Protects every page and forgets what was written before. A page that is not there gets a marker, which costs page
    /// tables: 8 bytes a page.
    ///
    /// # Errors
    /// Some pages may be protected then.
    pub fn protect(&mut self) -> Result<(), WriteLogError> {
        let range = sys::Range { start: self.mapping.start(), len: self.mapping.len() };
        let mut protect = sys::WriteProtect { range, mode: sys::WRITEPROTECT_MODE_WP };
        let protected = self.mapping.uffd().ioctl(sys::UFFDIO_WRITEPROTECT, &mut protect);
        protected.map_err(failed("write-protecting the mapping"))
    }

    /// Hands the pages written since the last call to `written`, as ranges of bytes from the start of the mapping, and
    /// protects them again: contents that are read after this returns hold every write that was handed out, and a later
    /// write is in a later call. A page may be handed out twice.
    ///
    /// # Errors
    /// Pages may have been protected that were not handed out: everything counts as written then.
    pub fn take(&mut self, mut written: impl FnMut(Range<u64>)) -> Result<(), WriteLogError> {
        let start = self.mapping.start();
        let range = start..start + self.mapping.len();
        for find in [Find::Written, Find::Vanished] {
            let taken =
                self.pagemap.take(range.clone(), find, |at| written(at.start - start..at.end - start));
            taken.map_err(failed("scanning the page tables"))?;
        }
        Ok(())
    }
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> WriteLogError {
    move |source| WriteLogError { doing, source }
}
