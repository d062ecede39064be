//! The faults that can be made to happen beneath a tracker.

use std::fmt;
use std::time::Duration;

/// One fault of a kernel, to happen once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next reset that has something to reset is interrupted by a signal: it returns a short count, and pages that it
    /// counted stay writable.
    InterruptedReset,
    /// The next reset says less than it did.
    ShortCount,
    /// The next reset is refused with `EIO`.
    RefusedReset,
    /// The next reset takes so long, half before and half after the entries are given back: the collector stands
    /// still, and vCPUs write pages that are harvested and not yet protected.
    SlowReset(Duration),
    /// The next change of a memslot's flags is refused with `ENOMEM`.
    RefusedFlags,
    /// The next `KVM_GET_DIRTY_LOG` takes the bits and then fails with `EFAULT`.
    FailedDirtyLog,
    /// The next `KVM_CLEAR_DIRTY_LOG` is refused with `ENOMEM`.
    FailedClear,
}

impl Fault {
    /// Its name, as reports have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InterruptedReset => "interrupted_reset",
            Self::ShortCount => "short_count",
            Self::RefusedReset => "refused_reset",
            Self::SlowReset(_) => "stopped_collector",
            Self::RefusedFlags => "refused_protection",
            Self::FailedDirtyLog => "failed_dirty_log",
            Self::FailedClear => "failed_clear",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
