//! The host's KVM, and memory for guests.

#![allow(unsafe_code, reason = "guest memory")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::ptr::{self, NonNull};

use ringmark_kvm::System;

/// The host's KVM, or `None` after saying that `test` is skipped.
pub fn system(test: &str) -> Option<System> {
    match System::open() {
        Ok(system) => Some(system),
        Err(why) => {
            eprintln!("SKIPPED {test}: no /dev/kvm ({why})");
            None
        }
    }
}

/// Anonymous memory of the process.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: memory belongs to the process; it is accessed by volatile reads and writes only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(len: u64) -> Self {
        let len = usize::try_from(len).unwrap();
        // SAFETY: a new anonymous mapping replaces nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: NonNull::new(start.cast()).unwrap(), len }
    }

    /// Memory in huge pages of 2 MiB, which `len` is a multiple of; `None` where the host has none to give.
    pub fn huge(len: u64) -> Option<Self> {
        const HUGE: usize = 2 << 20;
        let len = usize::try_from(len).unwrap();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping replaces nothing. Of it one part stays, which begins and ends at a huge page;
        // the rest is given back at once.
        let start = unsafe {
            let all =
                libc::mmap(ptr::null_mut(), len + HUGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(all, libc::MAP_FAILED);
            let all: *mut u8 = all.cast();
            let before = all.align_offset(HUGE);
            let start = all.add(before);
            if before > 0 {
                libc::munmap(all.cast(), before);
            }
            libc::munmap(start.add(len).cast(), HUGE - before);
            libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE);
            start
        };
        let memory = Self { start: NonNull::new(start).unwrap(), len };
        (0..len as u64).step_by(HUGE).for_each(|offset| memory.write(offset, 0));
        (memory.huge_bytes() == len).then_some(memory)
    }

    /// Bytes of it that are mapped by huge pages, as the kernel says.
    fn huge_bytes(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let range = format!("{:x}-", self.start.as_ptr().addr());
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&range)).skip(1);
        let huge = lines.find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap_or_default();
        huge.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) << 10
    }

    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let offset = usize::try_from(offset).unwrap();
        assert!(offset + len <= self.len, "outside the memory");
        // SAFETY: inside the mapping (checked).
        unsafe { self.start.as_ptr().add(offset) }
    }

    pub fn read(&self, offset: u64) -> u64 {
        // SAFETY: inside the mapping, and aligned as every caller's offset is.
        unsafe { self.at(offset, 8).cast::<u64>().read_volatile() }
    }

    pub fn write(&self, offset: u64, value: u64) {
        // SAFETY: inside the mapping, and aligned as every caller's offset is.
        unsafe { self.at(offset, 8).cast::<u64>().write_volatile(value) }
    }

    pub fn copy_in(&self, offset: u64, bytes: &[u8]) {
        for (i, &byte) in (0..).zip(bytes) {
            // SAFETY: inside the mapping.
            unsafe { self.at(offset + i, 1).write_volatile(byte) }
        }
    }

    pub fn copy_from(&self, other: &Self) {
        assert_eq!(self.len, other.len);
        // SAFETY: two mappings of one length, and no vCPU runs.
        unsafe { ptr::copy_nonoverlapping(other.start.as_ptr(), self.start.as_ptr(), self.len) }
    }

    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    pub fn len(&self) -> u64 {
        self.len as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
