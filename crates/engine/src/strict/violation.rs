//! The protocol's rules, as broken by somebody.

use std::fmt;

use ringmark_dirty::SlotId;

/// A rule of the tracking protocol whose breach loses pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The state was declared complete, then a vCPU ran while harvested entries were not yet reset: their pages are
    /// still writable, so what the guest now writes to them is in no log.
    HarvestedNotReset,
    /// The reset flag was set on an entry that was never pushed: the ring's indices are shifted from here on.
    ResetOfUnused,
    /// The state was declared complete while a bitmap held a page marked after its last collection: a device saved
    /// its tables too late, or the bitmap was collected too early.
    CollectedTooEarly,
    /// The state was declared complete while a ring held entries that nobody had harvested.
    NotHarvested,
    /// An entry was reset without its page being re-protected, because the entry (or one batched with it) named no page
    /// or another one, or because a signal cut the reset short: the page stays writable and is never logged again.
    NeverReprotected,
    /// A hard-full ring was pushed to: the oldest entry was overwritten before anybody could harvest it.
    HardFull,
    /// A page was written without a running vCPU in ring-only mode: there is nowhere to log it.
    Dropped,
}

impl Rule {
    /// What went wrong, in a sentence's middle.
    const fn text(self) -> &'static str {
        match self {
            Self::HarvestedNotReset => "a vCPU ran on while its entry was harvested and not reset",
            Self::ResetOfUnused => "an entry that was never pushed was marked as harvested",
            Self::CollectedTooEarly => "it was written after the last collection of its slot's bitmap",
            Self::NotHarvested => "its ring entry was never harvested",
            Self::NeverReprotected => "its entry was reset without re-protecting it",
            Self::HardFull => "its entry was overwritten in a full ring",
            Self::Dropped => "it was written without a running vCPU, and a ring has no place for that",
        }
    }
}

/// One breach, with the page that it loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Violation {
    /// What was broken.
    pub rule: Rule,
    /// The memslot of the page.
    pub slot: SlotId,
    /// Pages from the start of the slot.
    pub offset: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:#x} of memslot {} is lost: {}", self.offset, self.slot, self.rule.text())
    }
}
