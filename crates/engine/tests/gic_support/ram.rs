//! Memory of a guest, reached as a monitor reaches it: by address, and without anything being logged.
#![allow(unsafe_code, reason = "guest memory is shared with the engine, which has its address")]

use std::ptr::{self, NonNull};

use ringmark_abi::{Errno, MemoryRegion, Vm as _};
use ringmark_dirty::SlotId;
use ringmark_engine::Vm;

/// A private anonymous mapping.
pub struct Ram {
    start: NonNull<u8>,
    len: usize,
}

impl Ram {
    pub fn new(len: u64) -> Self {
        let len = usize::try_from(len).expect("a length of this machine");
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: NonNull::new(start.cast()).expect("mmap gives no null"), len }
    }

    /// Makes it memslot `slot` at `base`. The VM must not outlive it.
    pub fn add_to(&self, vm: &Vm, slot: SlotId, flags: u32, base: u64) -> Result<(), Errno> {
        let region = MemoryRegion {
            slot,
            flags,
            guest_phys_addr: base,
            memory_size: self.len as u64,
            userspace_addr: self.start.as_ptr().expose_provenance() as u64,
        };
        // SAFETY: the mapping is `len` bytes, readable and writable, and stays until `self` is dropped, which the tests do
        // after the last use of the VM.
        unsafe { vm.set_user_memory_region(&region) }
    }

    fn at(&self, gpa: u64, len: usize) -> *mut u8 {
        let offset = usize::try_from(gpa - super::RAM).expect("an address in memory");
        assert!(offset + len <= self.len, "{gpa:#x} is outside memory");
        // SAFETY: `offset` was just checked to be inside the mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }

    pub fn poke(&self, gpa: u64, data: &[u8]) {
        for (byte, i) in data.iter().zip(0..) {
            // SAFETY: `at` gives an address inside the mapping.
            unsafe { self.at(gpa + i, 1).write_volatile(*byte) };
        }
    }

    pub fn peek_byte(&self, gpa: u64) -> u8 {
        // SAFETY: `at` gives an address inside the mapping.
        unsafe { self.at(gpa, 1).read_volatile() }
    }

    /// A little-endian word.
    pub fn peek(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        for (byte, i) in bytes.iter_mut().zip(0..) {
            *byte = self.peek_byte(gpa + i);
        }
        u64::from_le_bytes(bytes)
    }

    /// All of it.
    pub fn contents(&self) -> Vec<u8> {
        let mut copy = vec![0; self.len];
        // SAFETY: both are `len` bytes and apart; no vCPU or device writes while a test copies.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr(), copy.as_mut_ptr(), self.len) };
        copy
    }

    /// Replaces all of it.
    pub fn fill_from(&self, contents: &[u8]) {
        assert_eq!(contents.len(), self.len);
        // SAFETY: both are `len` bytes and apart; no vCPU or device reads while a test copies.
        unsafe { ptr::copy_nonoverlapping(contents.as_ptr(), self.start.as_ptr(), self.len) };
    }
}

/// Deletes a memslot.
pub fn delete(vm: &Vm, slot: SlotId) -> Result<(), Errno> {
    let region = MemoryRegion { slot, flags: 0, guest_phys_addr: 0, memory_size: 0, userspace_addr: 0 };
    // SAFETY: size 0 takes memory away from the VM and gives it none.
    unsafe { vm.set_user_memory_region(&region) }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and unmapped once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
