//! Programs the interrupt controller from its reset on.

use super::Driver;
use super::board::Board;
use super::command::{invall, mapc, mapd, mapti, sync};
use super::ledger::{Cell, intid};
use super::registers::*;

/// The configuration of eight LPIs: enabled, and of a priority that the vCPUs' masks let through.
const CONFIGURED: u64 = u64::from_le_bytes([0xa3; 8]);

impl Driver {
    /// Sets up distributor, redistributors and every ITS, and maps every event of every device. After the reset of them
    /// all, with the memory for the tables zero.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn start<B: Board>(&mut self, board: &mut B) -> Result<(), B::Error> {
        let interrupts = self.ledger.interrupts;
        let configuration = interrupts.configuration();
        for gpa in (configuration..configuration + interrupts.lpis()).step_by(8) {
            board.store(gpa, CONFIGURED)?;
        }
        board.write_half(interrupts.distributor + GICD_CTLR, GICD_CTLR_ON);
        for vcpu in 0..self.ledger.config.writers {
            let frame = interrupts.redistributor(vcpu);
            board.write_half(frame + GICR_WAKER, 0);
            board.write(frame + GICR_PROPBASER, configuration | GICR_PROPBASER_FLAGS);
            board.write(frame + GICR_PENDBASER, interrupts.pending_table(vcpu) | GICR_PENDBASER_FLAGS);
            board.write_half(frame + GICR_CTLR, GICR_CTLR_LPIS);
        }
        for its in 0..interrupts.count {
            self.start_translator(board, its)?;
        }
        for line in 0..interrupts.lines() {
            let cell = Cell { vcpu: line % self.ledger.config.writers, lpi: 2 * line };
            self.ledger.set_route(board, line, cell)?;
            let (its, source) = self.ledger.source(line);
            self.push(board, its, mapti(source, intid(cell.lpi), cell.vcpu))?;
        }
        for its in 0..interrupts.count {
            for vcpu in 0..self.ledger.config.writers {
                let processor = self.processor(board, vcpu);
                self.push(board, its, invall(vcpu))?;
                self.push(board, its, sync(processor))?;
            }
        }
        self.flush(board);
        Ok(())
    }

    /// Gives an ITS its tables, its collections and its devices.
    fn start_translator<B: Board>(&mut self, board: &mut B, its: u64) -> Result<(), B::Error> {
        let interrupts = self.ledger.interrupts;
        let frame = interrupts.translator(its);
        board.write(frame + GITS_CBASER, interrupts.queue(its) | GITS_CBASER_FLAGS);
        for register in (frame + GITS_BASER..).step_by(8).take(GITS_BASERS) {
            let table = match board.read(register) >> GITS_BASER_TYPE_SHIFT & GITS_BASER_TYPE_MASK {
                GITS_BASER_DEVICES => interrupts.device_table(its),
                GITS_BASER_COLLECTIONS => interrupts.collection_table(its),
                _ => continue,
            };
            board.write(register, table | GITS_BASER_FLAGS);
        }
        board.write_half(frame + GITS_CTLR, GITS_CTLR_ON);
        for vcpu in 0..self.ledger.config.writers {
            let processor = self.processor(board, vcpu);
            self.push(board, its, mapc(vcpu, processor))?;
        }
        for device in 0..interrupts.devices {
            let table = interrupts.translation_table(its, device);
            self.push(board, its, mapd(interrupts.device_id(its, device), table))?;
        }
        Ok(())
    }

    /// The number by which an ITS knows a vCPU.
    pub(super) fn processor<B: Board>(&self, board: &mut B, vcpu: u64) -> u64 {
        let frame = self.ledger.interrupts.redistributor(vcpu);
        board.read(frame + GICR_TYPER) >> GICR_TYPER_NUMBER_SHIFT & GICR_TYPER_NUMBER_MASK
    }
}
