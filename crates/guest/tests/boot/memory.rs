//! Guest memory of a test machine: an anonymous mapping, read and written while vCPUs run.
#![allow(
    unsafe_code,
    reason = "guest memory is shared with running vCPUs and can only be reached through pointers"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use ringmark_guest::{Load, Memory};

pub(crate) struct GuestMemory {
    base: *mut libc::c_void,
    bytes: usize,
    /// Guest-physical address of its first byte.
    start: u64,
}

// SAFETY: the mapping is reached through atomic words only, from any thread, and lives until `drop`.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    pub(crate) fn new(start: u64, bytes: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self { base, bytes, start }
    }

    pub(crate) fn address(&self) -> u64 {
        self.base.addr() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn word(&self, gpa: u64) -> &AtomicU64 {
        let offset = gpa.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        let offset = offset.expect("an address within memory");
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes, "no word at {gpa:#x}");
        // SAFETY: the word is aligned and inside the mapping, which lives as long as `self`; the guest and this process
        // access it atomically or, in the guest, by aligned word stores.
        unsafe { AtomicU64::from_ptr(self.base.cast::<u64>().add(offset / 8)) }
    }

    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        for (gpa, chunk) in (gpa..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(gpa).store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    pub(crate) fn page(&self, gpa: u64) -> Vec<u64> {
        (gpa..gpa + 4096).step_by(8).map(|gpa| self.word(gpa).load(Ordering::Relaxed)).collect()
    }

    pub(crate) fn put_page(&self, gpa: u64, words: &[u64]) {
        for (gpa, &word) in (gpa..).step_by(8).zip(words) {
            self.word(gpa).store(word, Ordering::Relaxed);
        }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; every vCPU thread that used it has been joined.
        unsafe { libc::munmap(self.base, self.bytes) };
    }
}

/// The monitor's view.
pub(crate) struct View<'a>(pub(crate) &'a GuestMemory);

impl Load for View<'_> {
    type Error = std::convert::Infallible;

    fn load(&mut self, gpa: u64) -> Result<u64, Self::Error> {
        Ok(self.0.word(gpa).load(Ordering::Acquire))
    }
}

impl Memory for View<'_> {
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Self::Error> {
        self.0.word(gpa).store(value, Ordering::Release);
        Ok(())
    }
}
