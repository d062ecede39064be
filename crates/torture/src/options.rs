//! What is to be tortured, and for how long.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Whose guests are tortured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypervisor {
    /// The host's `/dev/kvm`.
    Kvm,
    /// The software engine, which plays every known fault.
    Engine,
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Engine => "engine",
        })
    }
}

/// A run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Determines every iteration's schedule.
    pub seed: u64,
    /// No iteration begins later; the last one is finished.
    pub time: Duration,
    /// Whose guests.
    pub hypervisor: Hypervisor,
    /// Only this iteration, again and again.
    pub iteration: Option<u64>,
}
