//! Who reported a page.

use std::sync::PoisonError;

use ringmark_dirty::SlotId;
use ringmark_track::LastReport;

use super::Machine;

impl Machine {
    /// Which source reported page `offset` of `slot` last, and when, in a machine whose cuts are audited; `None` for a page
    /// that nobody has reported. Waits for a checkpoint that is being taken.
    #[must_use]
    pub fn last_report(&self, slot: SlotId, offset: u64) -> Option<LastReport> {
        let mut state = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        state.tracker.remember_reports().last(slot, offset)
    }
}
