//! The guest's part in interrupts: it maps events anew, raises them and takes them, and keeps the ledger that
//! `ringmark-guest` describes.

use std::collections::VecDeque;

use ringmark_engine::gic::gits;
use ringmark_guest::{Config, FIRST_LPI, Interrupts, Memory};
use serde::{Deserialize, Serialize};

use super::commands::{Command, Source, discard, int, mapti, movi};
use super::its::{COMMAND_BYTES, QUEUE_BYTES};

/// Keeps the translation services busy. There is one, on the first vCPU.
///
/// A turn is worked out at once and then stored word by word, so a vCPU that leaves the guest between two stores, for good
/// or not, goes on with the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Driver {
    turn: u64,
    /// Address and value of what is left to be stored, commands and registers included.
    stores: VecDeque<(u64, u64)>,
}

/// Where an event goes, as the ledger's word says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    vcpu: u64,
    lpi: u64,
}

impl Driver {
    /// Goes on with the turn that is under way, or makes the next: an event that is not on its way is sent to another vCPU,
    /// or as its other LPI, and raised.
    ///
    /// # Errors
    /// The memory's; called again, it goes on where it was.
    pub(super) fn step<M: Memory>(
        &mut self,
        memory: &mut M,
        config: &Config,
        interrupts: &Interrupts,
    ) -> Result<(), M::Error> {
        if self.stores.is_empty() {
            self.stores = self.plan(memory, config, interrupts)?;
            self.turn = self.turn.wrapping_add(1);
        }
        while let Some(&(gpa, value)) = self.stores.front() {
            memory.store(gpa, value)?;
            self.stores.pop_front();
        }
        Ok(())
    }

    fn plan<M: Memory>(
        &self,
        memory: &mut M,
        config: &Config,
        interrupts: &Interrupts,
    ) -> Result<VecDeque<(u64, u64)>, M::Error> {
        // One translation service after the other, and each event of one after the other.
        let (its, turn) = (self.turn % interrupts.count, self.turn / interrupts.count);
        let of_one = interrupts.devices * interrupts.events;
        let (line, round) = (its * of_one + turn % of_one, turn / of_one);
        let word = memory.load(interrupts.route_gpa(config, line))?;
        let from = Route { vcpu: (word >> 1) % config.writers, lpi: 2 * line + (word & 1) };
        if !is_even(memory, config, interrupts, from)? {
            return Ok(VecDeque::new());
        }
        let vcpu = (line + round) % config.writers;
        let device = line / interrupts.events;
        let source = Source {
            device: interrupts.device_id(its, device % interrupts.devices),
            event: line % interrupts.events,
        };
        let to = if vcpu == from.vcpu { Route { vcpu, lpi: from.lpi ^ 1 } } else { Route { vcpu, ..from } };
        let mut commands: Vec<Command> = if vcpu == from.vcpu {
            vec![discard(source), mapti(source, FIRST_LPI + to.lpi, vcpu)]
        } else {
            vec![movi(source, vcpu)]
        };
        commands.push(int(source));

        let raised = interrupts.raised_gpa(config, to.vcpu, to.lpi);
        let mut stores = VecDeque::from([
            (interrupts.route_gpa(config, line), to.vcpu << 1 | to.lpi & 1),
            (raised, memory.load(raised)?.wrapping_add(1)),
        ]);
        let writer = interrupts.translator(its) + gits::CWRITER;
        let mut at = memory.load(writer)?;
        for command in commands {
            stores.extend((interrupts.queue(its) + at..).step_by(8).zip(command));
            at = (at + COMMAND_BYTES) % QUEUE_BYTES;
        }
        stores.push_back((writer, at));
        Ok(stores)
    }
}

/// Whether what was raised there was taken.
fn is_even<M: Memory>(
    memory: &mut M,
    config: &Config,
    interrupts: &Interrupts,
    at: Route,
) -> Result<bool, M::Error> {
    let taken = memory.load(interrupts.taken_gpa(config, at.vcpu, at.lpi))?;
    Ok(memory.load(interrupts.raised_gpa(config, at.vcpu, at.lpi))? == taken)
}

/// Takes the interrupts of one vCPU.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Taker {
    /// An interrupt that was acknowledged and is not in the ledger yet.
    owed: Option<u32>,
}

impl Taker {
    /// Takes every interrupt that is pending; `acknowledge` gives the next.
    ///
    /// # Errors
    /// The memory's; called again, it goes on where it was.
    pub(super) fn take<M: Memory>(
        &mut self,
        memory: &mut M,
        config: &Config,
        interrupts: &Interrupts,
        vcpu: u64,
        acknowledge: impl Fn() -> Option<u32>,
    ) -> Result<(), M::Error> {
        loop {
            if self.owed.is_none() {
                self.owed = acknowledge();
            }
            let Some(intid) = self.owed else { return Ok(()) };
            // Interrupts that the driver never mapped do not exist: a saved state that claims one counts nothing.
            if let Some(lpi) = u64::from(intid).checked_sub(FIRST_LPI).filter(|&lpi| lpi < interrupts.lpis())
            {
                let gpa = interrupts.taken_gpa(config, vcpu, lpi);
                let taken = memory.load(gpa)?;
                memory.store(gpa, taken.wrapping_add(1))?;
            }
            self.owed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;

    use ringmark_guest::{Load, Pattern};

    use super::*;

    /// Memory that refuses every other access.
    #[derive(Default)]
    struct Fickle {
        words: HashMap<u64, u64>,
        refuse: bool,
    }

    impl Fickle {
        fn ask(&mut self) -> Result<(), ()> {
            self.refuse = !self.refuse;
            if self.refuse { Err(()) } else { Ok(()) }
        }
    }

    impl Load for Fickle {
        type Error = ();
        fn load(&mut self, gpa: u64) -> Result<u64, ()> {
            Ok(self.words.get(&gpa).copied().unwrap_or_default())
        }
    }

    impl Memory for Fickle {
        fn store(&mut self, gpa: u64, value: u64) -> Result<(), ()> {
            self.ask()?;
            self.words.insert(gpa, value);
            Ok(())
        }
    }

    fn layout() -> (Config, Interrupts) {
        let config = Config {
            mailbox: 0x1_0000,
            page_size: 4096,
            hot: 0,
            pages: 1,
            ledger: 0,
            writers: 2,
            pattern: Pattern::Sequential,
            pace: 0,
            seed: 1,
        };
        let interrupts = Interrupts {
            area: 0x10_0000,
            distributor: 0,
            redistributors: 0,
            translators: 0x8000_0000,
            count: 2,
            devices: 2,
            events: 2,
        };
        (config, interrupts)
    }

    #[test]
    fn a_turn_goes_on_where_it_was_left() {
        let (config, interrupts) = layout();
        let mut memory = Fickle::default();
        let mut driver = Driver::default();
        for turn in 1..=interrupts.lines() {
            while driver.step(&mut memory, &config, &interrupts).is_err() {
                // Saved and restored between any two stores.
                let bytes = crate::codec::encode(&driver).unwrap();
                driver = crate::codec::decode(&bytes).unwrap();
            }
            assert_eq!(interrupts.tally(&mut memory, &config).unwrap().raised, turn);
        }
        // Nothing was taken, so nothing is raised again.
        while driver.step(&mut memory, &config, &interrupts).is_err() {}
        assert_eq!(interrupts.tally(&mut memory, &config).unwrap().raised, interrupts.lines());
    }

    #[test]
    fn an_acknowledged_interrupt_is_counted_once() {
        let (config, interrupts) = layout();
        let mut memory = Fickle::default();
        let mut taker = Taker::default();
        let pending = Cell::new(3_u32);
        let acknowledge = || {
            let left = pending.get().checked_sub(1)?;
            pending.set(left);
            Some(8192 + left)
        };
        while taker.take(&mut memory, &config, &interrupts, 1, acknowledge).is_err() {}
        assert_eq!(interrupts.tally(&mut memory, &config).unwrap().taken, 3);
        let stray = Cell::new(Some(7));
        while taker.take(&mut memory, &config, &interrupts, 1, || stray.take()).is_err() {}
        assert_eq!(interrupts.tally(&mut memory, &config).unwrap().taken, 3);
    }
}
