//! Whether what was raised arrives.

use super::Driver;
use super::board::Board;
use super::ledger::Cell;
use super::patience::Patience;
use crate::damage::Damage;

/// Events that are raised before one looks whether they came: KVM sorts what is pending whenever it enters the guest.
const RAISED_AT_ONCE: u64 = 64;

impl Driver {
    /// Waits for what is on its way, then raises every event once and waits for it. `found` is told of each interrupt
    /// that does not come, or came unasked; it is written off, and may be found again.
    ///
    /// All vCPUs take interrupts meanwhile: they check their pages, or hold.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn check<B: Board>(&mut self, board: &mut B, mut found: impl FnMut(Damage)) -> Result<(), B::Error> {
        let mut patience = Patience::begin(board, &self.ledger.config)?;
        for cell in self.ledger.cells() {
            self.settle(board, cell, &mut patience)?.into_iter().for_each(&mut found);
        }
        let lines = self.ledger.interrupts.lines();
        let mut first = 0;
        while first < lines {
            let end = lines.min(first + RAISED_AT_ONCE);
            for line in first..end {
                self.raise(board, line)?;
            }
            self.flush(board);
            patience.renew(board, &self.ledger.config)?;
            for line in first..end {
                let cell = self.ledger.route(board, line)?;
                self.settle(board, cell, &mut patience)?.into_iter().for_each(&mut found);
            }
            first = end;
        }
        // What came to a place where nothing was raised.
        for cell in self.ledger.cells() {
            self.settle(board, cell, &mut patience)?.into_iter().for_each(&mut found);
        }
        for vcpu in 0..self.ledger.config.writers {
            let strays = self.ledger.strays(board, vcpu)?;
            self.ledger.stray(vcpu, strays).into_iter().for_each(&mut found);
        }
        Ok(())
    }

    /// Waits until `cell` was taken as often as it was raised, or patience ends; what is wrong if it was not.
    fn settle<B: Board>(
        &self,
        board: &mut B,
        cell: Cell,
        patience: &mut Patience,
    ) -> Result<Option<Damage>, B::Error> {
        loop {
            let tally = self.ledger.tally(board, cell)?;
            if tally.raised > tally.taken && patience.wait(board, &self.ledger.config, cell.vcpu)? {
                continue;
            }
            let Some(kind) = tally.damage() else { return Ok(None) };
            self.ledger.set_raised(board, cell, tally.taken)?;
            return Ok(Some(self.ledger.damage(kind, cell, tally)));
        }
    }
}
