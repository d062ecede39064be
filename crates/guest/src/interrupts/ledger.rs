//! Which interrupts were raised, for whom, and which were taken.
//!
//! A word for each event says where it goes: to which vCPU, as which of its two LPIs. For each vCPU and LPI, one word
//! counts how often it was raised there, and another how often it was taken. An event is raised only when it was taken
//! as often as it was raised, so the two differ by one while it is on its way, and in no other case. The first vCPU
//! stores the one word before it raises the interrupt; the other is stored by the vCPU that took it.

use super::Interrupts;
use super::area::FIRST_LPI;
use super::command::Source;
use crate::config::Config;
use crate::damage::{Damage, DamageKind, Report};
use crate::memory::{Load, Memory};

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) vcpu: u64,
    /// Counted from the first.
    pub(super) lpi: u64,
}

/// How often something was raised, and how often taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often it was raised.
    pub raised: u64,
    /// How often it was taken.
    pub taken: u64,
}

impl Tally {
    pub(super) const fn is_even(self) -> bool {
        self.raised == self.taken
    }

    /// What is wrong with it if nothing is on its way any more.
    pub(super) fn damage(self) -> Option<DamageKind> {
        match self.raised.cmp(&self.taken) {
            core::cmp::Ordering::Equal => None,
            core::cmp::Ordering::Greater => Some(DamageKind::InterruptLost),
            core::cmp::Ordering::Less => Some(DamageKind::InterruptRepeated),
        }
    }
}

/// The ledger of a machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ledger {
    pub(super) config: Config,
    pub(super) interrupts: Interrupts,
}

impl Ledger {
    /// Where event `line` goes. What was not stored by [`set_route`](Self::set_route) leads somewhere all the same.
    pub(super) fn route<L: Load>(&self, memory: &mut L, line: u64) -> Result<Cell, L::Error> {
        let word = memory.load(self.interrupts.route_gpa(&self.config, line))?;
        Ok(Cell { vcpu: (word >> 1) % self.config.writers, lpi: 2 * line + (word & 1) })
    }

    pub(super) fn set_route<M: Memory>(&self, memory: &mut M, line: u64, to: Cell) -> Result<(), M::Error> {
        memory.store(self.interrupts.route_gpa(&self.config, line), to.vcpu << 1 | to.lpi & 1)
    }

    pub(super) fn tally<L: Load>(&self, memory: &mut L, cell: Cell) -> Result<Tally, L::Error> {
        let Cell { vcpu, lpi } = cell;
        // First what was taken, or an interrupt in between would seem to have been taken too often.
        let taken = memory.load(self.interrupts.taken_gpa(&self.config, vcpu, lpi))?;
        let raised = memory.load(self.interrupts.raised_gpa(&self.config, vcpu, lpi))?;
        Ok(Tally { raised, taken })
    }

    pub(super) fn set_raised<M: Memory>(
        &self,
        memory: &mut M,
        cell: Cell,
        raised: u64,
    ) -> Result<(), M::Error> {
        memory.store(self.interrupts.raised_gpa(&self.config, cell.vcpu, cell.lpi), raised)
    }

    pub(super) fn strays<L: Load>(&self, memory: &mut L, vcpu: u64) -> Result<u64, L::Error> {
        memory.load(self.interrupts.strays_gpa(&self.config, vcpu))
    }

    /// Everything that is counted.
    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> + use<> {
        let lpis = self.interrupts.lpis();
        (0..self.config.writers).flat_map(move |vcpu| (0..lpis).map(move |lpi| Cell { vcpu, lpi }))
    }

    /// The ITS of event `line`, and its name there.
    pub(super) const fn source(&self, line: u64) -> (u64, Source) {
        let (its, device, event) = self.take_apart(line);
        (its, Source { device: self.interrupts.device_id(its, device), event })
    }

    /// ITS, device index and event of a line.
    const fn take_apart(&self, line: u64) -> (u64, u64, u64) {
        let Interrupts { devices, events, .. } = self.interrupts;
        (line / events / devices, line / events % devices, line % events)
    }

    pub(super) fn damage(&self, kind: DamageKind, cell: Cell, tally: Tally) -> Damage {
        let (its, device, event) = self.take_apart(cell.lpi / 2);
        let entry = self.interrupts.translation_table(its, device) + event * 8;
        Damage {
            kind,
            gfn: self.config.gfn_of(entry),
            writer: cell.vcpu,
            expected: tally.raised,
            seen: tally.taken,
        }
    }

    /// A vCPU took `strays` interrupts that are none of the program's.
    pub(super) fn stray(&self, vcpu: u64, strays: u64) -> Option<Damage> {
        let gfn = self.config.gfn_of(self.interrupts.strays_gpa(&self.config, vcpu));
        (strays != 0).then_some(Damage {
            kind: DamageKind::InterruptRepeated,
            gfn,
            writer: vcpu,
            expected: 0,
            seen: strays,
        })
    }

    /// What a stopped machine's ledger says: one interrupt of each kind may be on its way.
    pub(super) fn inspect<L: Load>(&self, memory: &mut L, report: &mut Report) -> Result<(), L::Error> {
        for cell in self.cells() {
            let tally = self.tally(memory, cell)?;
            if tally.raised == tally.taken.wrapping_add(1) {
                continue;
            }
            if let Some(kind) = tally.damage() {
                report.add(self.damage(kind, cell, tally));
            }
        }
        for vcpu in 0..self.config.writers {
            if let Some(damage) = self.stray(vcpu, self.strays(memory, vcpu)?) {
                report.add(damage);
            }
        }
        Ok(())
    }
}

/// The INTID of an LPI.
pub(super) const fn intid(lpi: u64) -> u64 {
    FIRST_LPI + lpi
}
