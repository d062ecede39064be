//! A vCPU's dirty ring, mapped.

#![allow(unsafe_code, reason = "the ring is memory shared with the kernel")]

use std::os::fd::AsRawFd;
use std::slice;

use kvm_bindings::KVM_DIRTY_LOG_PAGE_OFFSET;
use ringmark_abi::Errno;
use ringmark_dirty::PageSize;
use ringmark_dirty::{Entry, RingMemory};

use crate::mapping::Mapping;

/// The entries of one vCPU's dirty ring, shared with the kernel.
///
/// It outlives the [`Vcpu`](crate::Vcpu) it came from: the mapping itself keeps the ring's pages, so a collector
/// thread may hold it for as long as it likes.
#[derive(Debug)]
pub struct RingMapping {
    mapping: Mapping,
    entries: usize,
}

impl RingMapping {
    /// Maps the ring of `bytes` bytes of the vCPU behind `fd`.
    ///
    /// The kernel accepts a length beyond the ring, and none at all, and answers with `SIGBUS` on access
    /// (`kvm_vcpu_fault`); `bytes` is therefore what the kernel accepted when the ring was enabled, never a guess.
    pub(crate) fn new(fd: &impl AsRawFd, bytes: u32, page_size: PageSize) -> Result<Self, Errno> {
        let len = usize::try_from(bytes).map_err(|_| Errno::EINVAL)?;
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * page_size.bytes();
        let mapping = Mapping::new(fd, offset, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)?;
        Ok(Self { mapping, entries: len / size_of::<Entry>() })
    }
}

impl RingMemory for RingMapping {
    fn entries(&self) -> &[Entry] {
        // SAFETY: the mapping is page-aligned, lives as long as `self`, and holds `entries` entries: its length is
        // the ring's, a power of two of at least a page. `Entry` consists of atomics and has the layout of `struct
        // kvm_dirty_gfn`, and the kernel writes entries by single stores of those fields.
        unsafe { slice::from_raw_parts(self.mapping.start().cast::<Entry>().as_ptr(), self.entries) }
    }
}
