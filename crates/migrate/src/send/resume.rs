//! What a cut link leaves at the source.

use std::fmt;

use ringmark_dirty::SlotTable;
use ringmark_track::Tracker;

use crate::codec::Ledger;
use crate::wire::Session;

/// What a migration whose link was cut leaves behind, to be [resumed](super::resume): the destination keeps what it holds for
/// as long as it said, and the tracker knows which pages it has not confirmed.
pub struct Resumable {
    /// The one that was cut.
    pub(super) session: Session,
    /// As the tracker knows it: that of the first of them.
    pub(super) consumer: u128,
    /// What was sent, as it was sent last.
    pub(super) ledger: Ledger,
}

impl Resumable {
    /// The migration that was cut.
    #[must_use]
    pub const fn session(&self) -> Session {
        self.session
    }

    /// Whether `tracker` still knows what the destination has confirmed of memory with `slots`: checkpoints that were taken
    /// meanwhile change nothing about that, a new base does.
    #[must_use]
    pub fn fits(&self, tracker: &Tracker, slots: &SlotTable) -> bool {
        tracker.can_go_on(self.consumer) && self.ledger.is_of(slots)
    }
}

impl fmt::Debug for Resumable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumable").field("session", &self.session).finish_non_exhaustive()
    }
}
