//! Memory of this process that a guest is given.

#![allow(unsafe_code, reason = "a mapping that a guest writes at the same time")]

use std::io;
use std::ptr::{self, NonNull};

/// How the host may back [`Pages`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Single pages only, so that one fault maps one page.
    Small,
    /// Transparent huge pages, wherever the host has them.
    Huge,
}

/// An anonymous mapping, zeroed, aligned to the huge pages of every host; unmapped on drop.
///
/// A guest may write it at any time: it is read and written by volatile accesses, and no reference into it exists.
#[derive(Debug)]
pub struct Pages {
    mapping: NonNull<u8>,
    mapped: usize,
    /// Bytes from the mapping's start to the first aligned address.
    skip: usize,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread; it is accessed by volatile reads and writes only.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

/// The largest block that a fault of a small guest is mapped by.
const ALIGNMENT: usize = 2 << 20;
const WORD: usize = size_of::<u64>();

impl Pages {
    /// `bytes` of zeroes.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub fn new(bytes: u64, backing: Backing) -> io::Result<Self> {
        let too_large = || io::Error::from_raw_os_error(libc::ENOMEM);
        let bytes = usize::try_from(bytes).map_err(|_| too_large())?;
        let mapped = bytes.checked_add(ALIGNMENT).ok_or_else(too_large)?;
        // SAFETY: an anonymous mapping at an address of the kernel's choice replaces nothing.
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
        let mapping = NonNull::new(address.cast::<u8>()).ok_or_else(too_large)?;
        let skip = address.addr().next_multiple_of(ALIGNMENT) - address.addr();
        let pages = Self { mapping, mapped, skip, bytes };
        let advice = match backing {
            Backing::Small => libc::MADV_NOHUGEPAGE,
            Backing::Huge => libc::MADV_HUGEPAGE,
        };
        // A host without huge pages refuses, and single pages it is. A child process would have the memory
        // write-protected, and a guest would log its pages anew.
        for advice in [advice, libc::MADV_DONTFORK] {
            // SAFETY: the range is this mapping, and neither advice changes its contents.
            unsafe { libc::madvise(address, mapped, advice) };
        }
        Ok(pages)
    }

    /// The address of the first byte, in this process.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.at(0).expose_provenance() as u64
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes as u64
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The aligned word at byte `offset`; `None` outside of the memory.
    #[must_use]
    pub fn read(&self, offset: u64) -> Option<u64> {
        let at = self.at(self.check(offset, WORD)?).cast::<u64>();
        // SAFETY: inside the mapping and aligned, both checked.
        Some(unsafe { at.read_volatile() })
    }

    /// Stores a word at byte `offset`; `None`, and nothing is stored, outside of the memory.
    pub fn write(&self, offset: u64, value: u64) -> Option<()> {
        let at = self.at(self.check(offset, WORD)?).cast::<u64>();
        // SAFETY: inside the mapping and aligned, both checked.
        unsafe { at.write_volatile(value) };
        Some(())
    }

    /// Copies whole words from byte `offset` on into `to`; `None`, and nothing is copied, outside of the memory.
    pub fn copy_out(&self, offset: u64, to: &mut [u8]) -> Option<()> {
        let start = self.at(self.check(offset, to.len())?).cast::<u64>();
        for (n, word) in to.chunks_exact_mut(WORD).enumerate() {
            // SAFETY: the words lie inside the mapping and are aligned, as their first is (checked).
            word.copy_from_slice(&unsafe { start.add(n).read_volatile() }.to_ne_bytes());
        }
        Some(())
    }

    /// Whether the whole words from byte `offset` on are `bytes`; `None` outside of the memory.
    #[must_use]
    pub fn is(&self, offset: u64, bytes: &[u8]) -> Option<bool> {
        let start = self.at(self.check(offset, bytes.len())?).cast::<u64>();
        let (words, _) = bytes.as_chunks::<WORD>();
        let differ = words.iter().enumerate().fold(0, |differ, (n, &word)| {
            // SAFETY: as in `copy_out`.
            differ | (unsafe { start.add(n).read_volatile() } ^ u64::from_ne_bytes(word))
        });
        Some(differ == 0)
    }

    /// Copies `bytes`, whole words, to byte `offset`; `None`, and nothing is copied, outside of the memory.
    pub fn copy_in(&self, offset: u64, bytes: &[u8]) -> Option<()> {
        let start = self.at(self.check(offset, bytes.len())?).cast::<u64>();
        let (words, _) = bytes.as_chunks::<WORD>();
        for (n, &word) in words.iter().enumerate() {
            // SAFETY: as in `copy_out`.
            unsafe { start.add(n).write_volatile(u64::from_ne_bytes(word)) };
        }
        Some(())
    }

    /// Where `len` bytes, whole words, begin: inside and aligned, or `None`.
    fn check(&self, offset: u64, len: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(len)?;
        (offset.is_multiple_of(WORD) && len.is_multiple_of(WORD) && end <= self.bytes).then_some(offset)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.mapping.as_ptr().wrapping_add(self.skip + offset)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any more.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}
