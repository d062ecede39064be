//! The known faults of real kernels, to be played on request.

use std::{
    fmt,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crate::sync::{read, write};

type Hook = Arc<dyn Fn() + Send + Sync>;

/// Switches for the faults that real kernels have shown; all of them may be thrown while the VM runs.
///
/// One fault needs no switch, because every kernel without a page-modification log has it: a ring's entry precedes its
/// store, so the newest entry of a full ring names a page that still holds its old content.
#[derive(Default)]
pub struct Faults {
    /// Entries after which a signal comes, plus one; 0 for none.
    reset_signal: AtomicU64,
    unchecked_pushes: AtomicU32,
    before_flush: RwLock<Option<Hook>>,
}

impl Faults {
    /// Lets a signal come in the next `KVM_RESET_DIRTY_RINGS` after it has taken `entries` entries.
    ///
    /// A kernel since 6.16 then returns a short count, and the pages of the batch it was gathering are counted, empty
    /// in the ring and *not* re-protected. With [`Profile::reset_stops_on_signal`](crate::Profile::reset_stops_on_signal)
    /// off, the signal changes nothing, as in 6.12. A call that takes fewer entries is not interrupted and uses the
    /// signal up.
    pub fn signal_next_reset_after(&self, entries: u32) {
        self.reset_signal.store(u64::from(entries) + 1, Ordering::Relaxed);
    }

    /// Lets the next `pushes` pushes (of any vCPU) go without the soft-full check, as guest code that is emulated in
    /// batches does: a ring can then overflow and lose its oldest entries.
    pub fn skip_soft_full_checks(&self, pushes: u32) {
        self.unchecked_pushes.store(pushes, Ordering::Relaxed);
    }

    /// Calls `hook` in every `KVM_RESET_DIRTY_RINGS` that took entries, after its lock is dropped and before TLBs are
    /// flushed: the window in which a second caller returns 0 while stores through stale translations go unlogged.
    pub fn before_reset_flush(&self, hook: impl Fn() + Send + Sync + 'static) {
        *write(&self.before_flush) = Some(Arc::new(hook));
    }

    /// Takes every fault back.
    pub fn clear(&self) {
        self.reset_signal.store(0, Ordering::Relaxed);
        self.unchecked_pushes.store(0, Ordering::Relaxed);
        *write(&self.before_flush) = None;
    }

    pub(crate) fn take_reset_signal(&self) -> Option<u64> {
        self.reset_signal.swap(0, Ordering::Relaxed).checked_sub(1)
    }

    /// Whether this push escapes the soft-full check.
    pub(crate) fn take_unchecked_push(&self) -> bool {
        self.unchecked_pushes.load(Ordering::Relaxed) != 0
            && self
                .unchecked_pushes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    pub(crate) fn run_before_flush(&self) {
        let hook = read(&self.before_flush).clone();
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("reset_signal", &self.reset_signal)
            .field("unchecked_pushes", &self.unchecked_pushes)
            .field("before_flush", &read(&self.before_flush).is_some())
            .finish()
    }
}
