//! What has arrived of a machine whose link was lost.

use std::time::{Duration, Instant};

use ringmark_dirty::{PageSize, SlotTable};

use crate::codec::Ledger;
use crate::wire::{Offer, Session};

/// Memory with what a source has sent, for that source to go on. It never runs unless a source makes it complete.
pub(super) struct Kept<A> {
    pub(super) arrival: A,
    pub(super) ledger: Ledger,
    page_size: PageSize,
    slots: SlotTable,
    session: Session,
    /// The one that this one went on from: its source knows no other if it failed before it sent anything.
    from: Option<Session>,
    until: Option<Instant>,
}

impl<A> Kept<A> {
    pub(super) fn new(
        arrival: A,
        ledger: Ledger,
        page_size: PageSize,
        slots: SlotTable,
        (session, from): (Session, Option<Session>),
        keep: Duration,
    ) -> Self {
        let until = Instant::now().checked_add(keep);
        Self { arrival, ledger, page_size, slots, session, from, until }
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Whether `offer` is that of the same source, with the same memory.
    pub(super) fn is_resumed_by(&self, offer: &Offer, page_size: PageSize, slots: &SlotTable) -> bool {
        offer.resume.is_some_and(|meant| meant == self.session || Some(meant) == self.from)
            && page_size == self.page_size
            && slots.iter().eq(self.slots.iter())
            && !self.is_over()
    }

    pub(super) fn farewell(&self) -> String {
        format!("nobody has gone on with migration {}: what had arrived is thrown away", self.session)
    }
}
