//! A page that got away, and who should have held it.

use std::fmt;

use ringmark_dirty::{Gfn, PageSize, SlotId};

use crate::reports::{LastReport, Sources};

/// A page whose content changed though no source reported it. One is a failure, never a statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Escape {
    /// The memslot.
    pub slot: SlotId,
    /// The page, counted from the slot's start.
    pub offset: u64,
    /// The guest frame.
    pub gfn: Gfn,
    /// The size of the page.
    pub page_size: PageSize,
    /// Who reported the page last: the last writer that is known. `None` if nobody has, or nobody
    /// [remembers](crate::Tracker::remember_reports).
    pub last: Option<LastReport>,
    /// Which source ought to have seen this write: the one that saw the last, or else all that there are. Empty if nobody
    /// remembers reports.
    pub ought: Sources,
}

impl Escape {
    /// The guest-physical address of the page's first byte.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        self.page_size.address(self.gfn)
    }
}

impl fmt::Display for Escape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of memslot {} (gfn {}", self.offset, self.slot, self.gfn)?;
        if let Some(address) = self.address() {
            write!(f, ", guest address {address:#x}")?;
        }
        f.write_str(") changed and no source reported it")?;
        match self.last {
            Some(last) => write!(f, "; last reported by {last}, so that source ought to have seen it"),
            None if self.ought.is_empty() => Ok(()),
            None => write!(
                f,
                "; no source has reported it before, and one of these ought to have seen it: {}",
                self.ought
            ),
        }
    }
}
