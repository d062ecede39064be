//! What a kernel's userfaultfd can do.

use std::fmt;
use std::ops::BitOr;

/// A set of features (`UFFD_FEATURE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

/// Each feature with the kernel's name of it and the first mainline release that has it.
const NAMES: [(Features, &str, &str); 17] = [
    (Features(1 << 0), "PAGEFAULT_FLAG_WP", "5.7"),
    (Features(1 << 1), "EVENT_FORK", "4.11"),
    (Features(1 << 2), "EVENT_REMAP", "4.11"),
    (Features(1 << 3), "EVENT_REMOVE", "4.11"),
    (Features(1 << 4), "MISSING_HUGETLBFS", "4.11"),
    (Features(1 << 5), "MISSING_SHMEM", "4.11"),
    (Features(1 << 6), "EVENT_UNMAP", "4.11"),
    (Features(1 << 7), "SIGBUS", "4.14"),
    (Features(1 << 8), "THREAD_ID", "4.14"),
    (Features(1 << 9), "MINOR_HUGETLBFS", "5.13"),
    (Features(1 << 10), "MINOR_SHMEM", "5.14"),
    (Features(1 << 11), "EXACT_ADDRESS", "5.18"),
    (Features(1 << 12), "WP_HUGETLBFS_SHMEM", "5.19"),
    (Features(1 << 13), "WP_UNPOPULATED", "6.4"),
    (Features(1 << 14), "POISON", "6.6"),
    (Features(1 << 15), "WP_ASYNC", "6.7"),
    (Features(1 << 16), "MOVE", "6.8"),
];

impl Features {
    /// None.
    pub const NONE: Self = Self(0);
    /// Missing faults of shared memory, a memfd's included.
    pub const MISSING_SHMEM: Self = Self(1 << 5);
    /// Write protection of shared memory.
    pub const WP_SHMEM: Self = Self(1 << 12);
    /// Write protection of pages that are not there yet.
    pub const WP_UNPOPULATED: Self = Self(1 << 13);
    /// Writes to protected pages are resolved by the kernel and only noted.
    pub const WP_ASYNC: Self = Self(1 << 15);
    /// What [`WriteLog`](crate::WriteLog) needs.
    pub const WRITE_LOG: Self = Self(Self::WP_SHMEM.0 | Self::WP_UNPOPULATED.0 | Self::WP_ASYNC.0);

    /// The set of these bits, known to this crate or not.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits as the kernel has them.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether every feature of `other` is here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The kernel's names of the features that this crate knows, without `UFFD_FEATURE_`, and the release each came with.
    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        NAMES
            .into_iter()
            .filter(move |(feature, ..)| self.contains(*feature))
            .map(|(_, name, since)| (name, since))
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut empty = true;
        for (name, since) in self.names() {
            write!(f, "{}{name} (Linux {since})", if empty { "" } else { ", " })?;
            empty = false;
        }
        if empty { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_names_its_features() {
        assert_eq!(Features::NONE.to_string(), "none");
        assert_eq!(
            Features::WRITE_LOG.to_string(),
            "WP_HUGETLBFS_SHMEM (Linux 5.19), WP_UNPOPULATED (Linux 6.4), WP_ASYNC (Linux 6.7)"
        );
        let all = Features::from_bits(u64::MAX);
        assert_eq!(all.names().count(), NAMES.len());
        assert_eq!(Features::WRITE_LOG.without(all), Features::NONE);
    }
}
