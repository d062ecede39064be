//! Guest-physical memory through the identity map.

#![allow(clippy::cast_possible_truncation, reason = "addresses have 64 bits here")]

use core::convert::Infallible;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use ringmark_guest::{Load, Memory};

/// Loads acquire and stores release: the monitor, and other vCPUs, see stores in program order while this vCPU runs.
pub(crate) struct Physical;

impl Load for Physical {
    type Error = Infallible;

    #[inline]
    fn load(&mut self, gpa: u64) -> Result<u64, Infallible> {
        // SAFETY: the address is aligned by the trait's contract and mapped (the architecture's `fits`, and what a
        // loader leaves lies below 4 GiB); this memory is reached by atomic words only, also by other vCPUs and the
        // monitor.
        let word = unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(gpa as usize)) };
        Ok(word.load(Ordering::Acquire))
    }
}

impl Memory for Physical {
    #[inline]
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Infallible> {
        // SAFETY: as in `load`; what is written are the mailbox, the ledger, the hot region and the interrupt
        // controller's tables, which their configurations' `validate` keeps apart and the monitor keeps clear of this
        // program.
        let word = unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(gpa as usize)) };
        word.store(value, Ordering::Release);
        Ok(())
    }
}
