//! Strict mode: what the engine knows and a kernel does not.

mod truth;
mod violation;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ringmark_dirty::SlotId;

pub(crate) use truth::Truth;
pub use violation::{Rule, Violation};

use crate::sync::lock;

/// Violations kept; later ones are only counted, so that a caller who never asks does not fill memory.
const KEPT: usize = 1 << 16;

/// The state of strict mode, off at first.
#[derive(Debug, Default)]
pub(crate) struct Strict {
    on: AtomicBool,
    /// Advances with every logged write; "reported up to here" is a reading of it.
    clock: AtomicU64,
    /// The state was declared complete and no vCPU has run since.
    complete: AtomicBool,
    violations: Mutex<Vec<Violation>>,
}

impl Strict {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// The number of a new write; taken before the write is made, inside the section a flush waits for.
    pub(crate) fn next_write(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of the newest write; taken after a flush, it covers every write the flush waited for.
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub(crate) fn set_complete(&self) {
        self.complete.store(true, Ordering::SeqCst);
    }

    /// Whether the state was declared complete; a vCPU that asks is about to change it.
    pub(crate) fn take_complete(&self) -> bool {
        self.complete.load(Ordering::SeqCst) && self.complete.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn record(&self, rule: Rule, slot: SlotId, offset: u64) {
        let mut violations = lock(&self.violations);
        if violations.len() < KEPT {
            violations.push(Violation { rule, slot, offset });
        }
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).clone()
    }

    pub(crate) fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut lock(&self.violations))
    }
}
