//! Mapping a vCPU's descriptor (`kvm_vcpu_mmap`, `kvm_vcpu_fault`).

use ringmark_abi::Errno;
use ringmark_dirty::Entry;

use super::{RingPages, Vcpu};

/// Where the ring begins in a vCPU's descriptor, in pages (`KVM_DIRTY_LOG_PAGE_OFFSET`).
const RING_PAGE: u64 = 64;

/// A mapping of pages of a vCPU's descriptor; it stays valid when the vCPU is closed.
#[derive(Debug)]
pub struct RingMapping {
    first: u64,
    npages: u64,
    entries_per_page: usize,
    ring: Option<RingPages>,
}

impl RingMapping {
    /// The ring entries that page `page` of the mapping shows, or `None` where touching it is a `SIGBUS`: past the
    /// ring, or with rings off. (Pages before the ring's window belong to `struct kvm_run`, which is not modelled.)
    #[must_use]
    pub fn page(&self, page: u64) -> Option<&[Entry]> {
        if page >= self.npages {
            return None;
        }
        let in_ring = usize::try_from(self.first.checked_add(page)?.checked_sub(RING_PAGE)?).ok()?;
        let start = in_ring.checked_mul(self.entries_per_page)?;
        self.ring.as_ref()?.get(start..start.checked_add(self.entries_per_page)?)
    }
}

impl Vcpu {
    /// `mmap` of `npages` pages from page `first` of the descriptor; the ring is at page 64.
    ///
    /// Only the first and the last page of the request are looked at, as in the kernel.
    ///
    /// # Errors
    /// `EINVAL` if one of them lies in the ring's window and the mapping is private or executable.
    pub fn map(&self, first: u64, npages: u64, shared: bool, executable: bool) -> Result<RingMapping, Errno> {
        let page_size = self.vm.profile().host_page_size();
        let last = first.checked_add(npages).and_then(|end| end.checked_sub(1)).ok_or(Errno::EINVAL)?;
        let window = RING_PAGE..RING_PAGE + self.vm.inner().ring_pages();
        if (window.contains(&first) || window.contains(&last)) && (!shared || executable) {
            return Err(Errno::EINVAL);
        }
        let entries_per_page =
            usize::try_from(page_size.bytes()).map_err(|_| Errno::EINVAL)? / size_of::<Entry>();
        let ring = self.shared.ring.as_ref().map(|ring| ring.memory().clone());
        Ok(RingMapping { first, npages, entries_per_page, ring })
    }
}
