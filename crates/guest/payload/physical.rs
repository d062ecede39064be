//! Guest-physical memory through the identity map.

#![allow(clippy::cast_possible_truncation, reason = "addresses have 64 bits here")]

use core::convert::Infallible;
use core::ptr;

use ringmark_guest::{Config, Load, Memory};

/// What `boot.s` maps with pages of 2 MiB, and with pages of 1 GiB where there are any.
const MAPPED: u64 = 16 << 30;
const MAPPED_WITH_HUGE_PAGES: u64 = 512 << 30;

pub(crate) struct Physical;

impl Load for Physical {
    type Error = Infallible;

    #[inline]
    fn load(&mut self, gpa: u64) -> Result<u64, Infallible> {
        // SAFETY: the address is aligned by the trait's contract and mapped (`fits`, and the loader's own structures
        // lie below 4 GiB); no reference to this memory exists, and other vCPUs and the monitor may change it.
        Ok(unsafe { ptr::with_exposed_provenance::<u64>(gpa as usize).read_volatile() })
    }
}

impl Memory for Physical {
    #[inline]
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Infallible> {
        // SAFETY: as in `load`; what is written are the mailbox, the ledger and the hot region, which
        // `Config::validate` keeps apart and the monitor keeps clear of this program.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(gpa as usize).write_volatile(value) };
        Ok(())
    }
}

/// Whether the identity map reaches all regions.
pub(crate) fn fits(config: &Config, huge_pages: bool) -> bool {
    let end = if huge_pages { MAPPED_WITH_HUGE_PAGES } else { MAPPED };
    let ends = [
        config.mailbox + config.mailbox_bytes(),
        config.ledger + config.ledger_bytes(),
        config.hot + config.hot_bytes(),
    ];
    ends.into_iter().all(|reach| reach <= end)
}
