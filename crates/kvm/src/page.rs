//! The page size of the host.

#![allow(unsafe_code, reason = "one call of sysconf")]

use ringmark_dirty::PageSize;

/// The host's page size, or `None` where it is none that KVM tracks in.
pub(crate) fn host_page_size() -> Option<PageSize> {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).ok().and_then(PageSize::new)
}
