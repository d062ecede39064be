//! Counters of the collector.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that the collector's thread keeps and any thread may read.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(super) entries: AtomicU64,
    pub(super) ring_full: AtomicU64,
    pub(super) periodic: AtomicU64,
    pub(super) resets: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectorStats {
    /// Entries harvested.
    pub entries: u64,
    /// Ring-full exits that were served.
    pub ring_full: u64,
    /// Drains that the collector began itself, to spare a vCPU the exit.
    pub periodic: u64,
    /// Calls of `KVM_RESET_DIRTY_RINGS`.
    pub resets: u64,
}

impl Stats {
    /// The counters now; each is exact, and they are not read at one instant.
    pub(crate) fn read(&self) -> CollectorStats {
        // Relaxed: the counters order nothing.
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CollectorStats {
            entries: load(&self.entries),
            ring_full: load(&self.ring_full),
            periodic: load(&self.periodic),
            resets: load(&self.resets),
        }
    }

    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
