//! What the engine counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the VM was made. The kernel says most of these once, in its log, if at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries pushed to rings.
    pub pushes: u64,
    /// Pushes over an entry that was not reset: each lost a page. 0 on a kernel that behaves.
    pub hard_full_events: u64,
    /// Exits of vCPUs with a soft-full ring.
    pub ring_full_exits: u64,
    /// Marks made while the thread had a vCPU of another VM loaded: nothing was logged.
    pub marks_of_other_vm: u64,
    /// Marks without a running vCPU that the kernel warns of (it expects them of the VGIC's table saves only).
    pub marks_without_vcpu: u64,
    /// Marks that went nowhere: ring-only mode and no running vCPU.
    pub dropped_marks: u64,
    /// Reset entries whose batch named no page, so that nothing was re-protected.
    pub invalid_resets: u64,
    /// Guest stores that faulted on a write-protected page (or were logged by hardware).
    pub write_faults: u64,
    /// TLB flushes of all vCPUs.
    pub flushes: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The live counters behind [`Stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters!(
    pushes,
    hard_full_events,
    ring_full_exits,
    marks_of_other_vm,
    marks_without_vcpu,
    dropped_marks,
    invalid_resets,
    write_faults,
    flushes
);

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}
