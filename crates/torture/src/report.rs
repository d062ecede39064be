//! What a run came to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Hypervisor;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The seed, which replays the schedule.
    pub seed: u64,
    /// Whose guests.
    pub hypervisor: Hypervisor,
    /// How long it was to be.
    pub minutes: f64,
    /// Iterations finished.
    pub iterations: u64,
    /// Pages whose content was compared with what it had to be.
    pub pages_verified: u64,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Pages that changed and that no source reported: 0, or there is no report but a [`Failure`](crate::Failure).
    pub escapes: u64,
    /// How long it was.
    pub elapsed_ms: u64,
}
