//! The program that drives the interrupt controller.

use super::Interrupts;
use super::board::Board;
use super::command::{Command, discard, int, inv, mapti, movi, sync};
use super::ledger::{Cell, Ledger, intid};
use super::queue::Queue;
use crate::config::Config;
use crate::random::Random;

/// Events that a turn raises, less those that are on their way already.
const RAISED_A_TURN: u64 = 8;

/// As many queues as there can be.
const QUEUES: usize = 4;
const _: () = assert!(QUEUES as u64 == Interrupts::MAX_TRANSLATORS);

/// Keeps the interrupt controller busy, and knows what must arrive. There is one, on the first vCPU.
///
/// Every [`turn`](Self::turn) raises some events through the command queues, and maps another anew: to another vCPU
/// (MOVI), or to its other LPI (DISCARD, MAPTI). So an image that lacks what was written to a page of any table has
/// other mappings than the ledger says, and a [`check`](Self::check) finds interrupts that never come, or come to
/// others.
#[derive(Clone, Debug)]
pub struct Driver {
    pub(super) ledger: Ledger,
    queues: [Queue; QUEUES],
    random: Random,
}

impl Driver {
    /// A driver, before [`start`](Self::start).
    #[must_use]
    pub fn new(config: Config, interrupts: Interrupts) -> Self {
        let queue = |its| Queue::new(interrupts.queue(its), interrupts.translator(its));
        Self {
            ledger: Ledger { config, interrupts },
            queues: [queue(0), queue(1), queue(2), queue(3)],
            random: Random(config.seed),
        }
    }

    /// Maps an event anew, and raises some that are not on their way.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn turn<B: Board>(&mut self, board: &mut B) -> Result<(), B::Error> {
        let line = self.any_line();
        let from = self.ledger.route(board, line)?;
        if self.ledger.tally(board, from)?.is_even() {
            self.map_anew(board, line, from)?;
        }
        for _ in 0..RAISED_A_TURN {
            let line = self.any_line();
            self.raise(board, line)?;
        }
        self.flush(board);
        Ok(())
    }

    /// Raises an event, unless it is on its way.
    pub(super) fn raise<B: Board>(&mut self, board: &mut B, line: u64) -> Result<(), B::Error> {
        let cell = self.ledger.route(board, line)?;
        let tally = self.ledger.tally(board, cell)?;
        if !tally.is_even() {
            return Ok(());
        }
        self.ledger.set_raised(board, cell, tally.raised.wrapping_add(1))?;
        let (its, source) = self.ledger.source(line);
        self.push(board, its, int(source))
    }

    /// Sends an event that is not on its way to another vCPU, or as its other LPI.
    fn map_anew<B: Board>(&mut self, board: &mut B, line: u64, from: Cell) -> Result<(), B::Error> {
        let vcpu = self.random.below(self.ledger.config.writers);
        let (its, source) = self.ledger.source(line);
        if vcpu == from.vcpu {
            let to = Cell { vcpu, lpi: from.lpi ^ 1 };
            self.ledger.set_route(board, line, to)?;
            self.push(board, its, discard(source))?;
            self.push(board, its, mapti(source, intid(to.lpi), vcpu))?;
            self.push(board, its, inv(source))?;
        } else {
            self.ledger.set_route(board, line, Cell { vcpu, ..from })?;
            self.push(board, its, movi(source, vcpu))?;
        }
        let processor = self.processor(board, vcpu);
        self.push(board, its, sync(processor))
    }

    fn any_line(&mut self) -> u64 {
        self.random.below(self.ledger.interrupts.lines())
    }

    pub(super) fn push<B: Board>(
        &mut self,
        board: &mut B,
        its: u64,
        command: Command,
    ) -> Result<(), B::Error> {
        match (0..).zip(&mut self.queues).find(|(index, _)| *index == its) {
            Some((_, queue)) => queue.push(board, command),
            None => Ok(()),
        }
    }

    pub(super) fn flush<B: Board>(&mut self, board: &mut B) {
        self.queues.iter_mut().for_each(|queue| queue.flush(board));
    }
}
