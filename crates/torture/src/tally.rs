//! What is counted on the way.

use std::collections::BTreeMap;

/// Pages and faults so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) pages: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Counts a fault that has happened.
    pub(crate) fn fault(&mut self, kind: &'static str) {
        self.faults(kind, 1);
    }

    /// Counts `times` faults.
    pub(crate) fn faults(&mut self, kind: &'static str, times: u64) {
        if times > 0 {
            *self.faults.entry(kind).or_default() += times;
        }
    }
}
