//! The atomics that everything here is made of: the machine's, or loom's under `cfg(loom)`.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use watch::Watch;

/// Stands beside data that must be accessed as if it were plain memory: nothing at run time, and under loom a cell
/// that fails the model when two accesses are not ordered by others.
///
/// Relaxed atomics never count as a data race, and loom never lets a load see a later store; without the cell a
/// missing release would go unnoticed.
#[cfg(not(loom))]
mod watch {
    #[derive(Debug, Default)]
    pub(crate) struct Watch;

    impl Watch {
        #[inline(always)]
        #[allow(clippy::unused_self, reason = "the loom twin of this method uses it")]
        pub(crate) fn read(&self) {}

        #[inline(always)]
        #[allow(clippy::unused_self, reason = "the loom twin of this method uses it")]
        pub(crate) fn write(&self) {}
    }
}

#[cfg(loom)]
mod watch {
    #![allow(unsafe_code, reason = "loom's cell is not Sync, and being shared is what it is here for")]

    #[derive(Debug, Default)]
    pub(crate) struct Watch(loom::cell::UnsafeCell<()>);

    // SAFETY: the cell holds nothing and its pointer is never followed; loom's own bookkeeping is behind its lock.
    unsafe impl Sync for Watch {}

    impl Watch {
        pub(crate) fn read(&self) {
            self.0.with(|_| ());
        }

        pub(crate) fn write(&self) {
            self.0.with_mut(|_| ());
        }
    }
}
