//! Memory that guests get.

#![allow(
    unsafe_code,
    reason = "guest memory is a mapping that another party writes; it is only touched atomically"
)]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// An anonymous mapping, zeroed, aligned to a huge page.
#[derive(Debug)]
pub(crate) struct Ram {
    mapping: NonNull<u8>,
    mapped: usize,
    start: usize,
    bytes: usize,
}

// SAFETY: the mapping belongs to no thread, and every access through `Ram` is atomic.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

/// How the host may back a [`Ram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Single pages only, so that one fault maps one page.
    Pages,
    /// Transparent huge pages wherever the host can.
    HugePages,
}

const HUGE: usize = 2 << 20;

impl Ram {
    pub(crate) fn new(bytes: u64, backing: Backing) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let mapped = bytes.checked_add(HUGE).ok_or_else(|| io::Error::other("too large"))?;
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(address.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        let start = (address.addr()).next_multiple_of(HUGE);
        let ram = Self { mapping, mapped, start, bytes };
        let advice = match backing {
            Backing::Pages => libc::MADV_NOHUGEPAGE,
            Backing::HugePages => libc::MADV_HUGEPAGE,
        };
        // SAFETY: the range is this mapping. Where the host knows no huge pages it refuses, and single pages it is.
        unsafe { libc::madvise(mapping.as_ptr().cast(), mapped, advice) };
        // A fork would write-protect it, and every guest in the process would log its pages anew.
        // SAFETY: the range is this mapping, which no child needs.
        unsafe { libc::madvise(mapping.as_ptr().cast(), mapped, libc::MADV_DONTFORK) };
        Ok(ram)
    }

    /// The address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.start as u64
    }

    /// Whether `start..end` are addresses of this memory.
    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        start >= self.address() && end <= self.address() + self.bytes as u64
    }

    fn word(&self, byte: u64) -> Option<&AtomicU64> {
        let offset = usize::try_from(byte).ok()?;
        if !offset.is_multiple_of(8) || offset.checked_add(8)? > self.bytes {
            return None;
        }
        let at = self.mapping.as_ptr().wrapping_add(self.start - self.mapping.addr().get() + offset);
        // SAFETY: `at` is 8-aligned (the start is 2 MiB-aligned) and 8 bytes inside a mapping that lives as long as
        // `self`; memory shared with a guest is only ever used through atomics here.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// The eight bytes at `byte`; 0 outside.
    pub(crate) fn read(&self, byte: u64) -> u64 {
        self.word(byte).map_or(0, |word| u64::from_le(word.load(Ordering::SeqCst)))
    }

    /// Stores eight bytes, as a monitor does: no log knows of it. Outside the memory it does nothing.
    pub(crate) fn write(&self, byte: u64, value: u64) {
        if let Some(word) = self.word(byte) {
            word.store(value.to_le(), Ordering::SeqCst);
        }
    }

    /// All words of the page of `page_bytes` at `page`.
    pub(crate) fn page(&self, page: u64, page_bytes: u64) -> Vec<u64> {
        (0..page_bytes / 8).map(|word| self.read(page * page_bytes + word * 8)).collect()
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nothing of this process refers to it any more: rigs keep a `Ram`
        // until their VM is gone.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}
