//! An ITS's command queue.

use super::board::Board;
use super::command::Command;
use super::{Interrupts, registers};

const COMMAND_BYTES: u64 = 32;
/// Commands between two looks at whether the ITS keeps up; a quarter of the queue.
const BATCH: u64 = Interrupts::UNIT / COMMAND_BYTES / 4;
/// Microseconds after which an ITS that has not executed its commands never will. KVM's has when the write returns.
const PATIENCE: u64 = 1_000_000;

/// A queue, and up to where it is filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    base: u64,
    frame: u64,
    filled: u64,
    waiting: u64,
    /// The ITS was given up: it does nothing any more.
    dead: bool,
}

impl Queue {
    /// The queue at `base` of the ITS at `frame`, empty.
    pub(super) const fn new(base: u64, frame: u64) -> Self {
        Self { base, frame, filled: 0, waiting: 0, dead: false }
    }

    /// Appends a command, which is executed at the next [`flush`](Self::flush) at the latest.
    pub(super) fn push<B: Board>(&mut self, board: &mut B, command: Command) -> Result<(), B::Error> {
        if self.dead {
            return Ok(());
        }
        for (gpa, word) in (self.base + self.filled..).step_by(8).zip(command) {
            board.store(gpa, word)?;
        }
        self.filled = (self.filled + COMMAND_BYTES) % Interrupts::UNIT;
        self.waiting += 1;
        if self.waiting == BATCH {
            self.flush(board);
        }
        Ok(())
    }

    /// Has all commands executed. An ITS that does not execute them gets no more: its interrupts are lost.
    pub(super) fn flush<B: Board>(&mut self, board: &mut B) {
        if self.waiting == 0 {
            return;
        }
        self.waiting = 0;
        board.write(self.frame + registers::GITS_CWRITER, self.filled);
        let mut waited = 0;
        while board.read(self.frame + registers::GITS_CREADR) != self.filled {
            if waited > PATIENCE {
                self.dead = true;
                return;
            }
            waited += board.pause();
        }
    }
}
