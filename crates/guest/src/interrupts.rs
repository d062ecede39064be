//! The interrupt controller that a machine gives to its bare-metal program, and the memory that both share.

mod area;
mod board;
mod check;
mod command;
mod driver;
mod header;
mod ledger;
mod patience;
mod queue;
mod registers;
mod setup;

use core::fmt;

use crate::config::Config;
use crate::damage::Report;
use crate::memory::Load;

pub use area::FIRST_LPI;
pub use board::Board;
pub use driver::Driver;
pub use header::InterruptsError;
pub use ledger::Tally;

use ledger::Ledger;

/// A VGICv3 with interrupt translation services (ITS), and how much of it the program is to use.
///
/// The program maps every event of every device, through one collection a vCPU, and gives each event one of two LPIs.
/// All tables lie in [`area`](Self::area), which is zero when the programs start. The program alone raises its events:
/// one that somebody else signals has come unasked.
///
/// ```text
/// area      64 KiB        configuration of the LPIs, a byte each
///           per ITS       command queue, device table, collection table, 64 KiB each; then the devices' translation
///                         tables, 256 bytes each, rounded up to 64 KiB
///           per vCPU      pending table, 64 KiB
///           ledger        where each event is routed; per vCPU and LPI, how often it was raised and how often taken
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupts {
    /// Guest-physical address of the memory for the tables, a multiple of 64 KiB.
    pub area: u64,
    /// Address of the distributor's frame.
    pub distributor: u64,
    /// Address of the redistributors' frames, 128 KiB a vCPU.
    pub redistributors: u64,
    /// Address of the frames of the first ITS; each further one lies 128 KiB behind the one before it.
    pub translators: u64,
    /// How many ITSs there are, at most [`MAX_TRANSLATORS`](Self::MAX_TRANSLATORS).
    pub count: u64,
    /// Devices of each ITS, at most [`MAX_DEVICES`](Self::MAX_DEVICES).
    pub devices: u64,
    /// Events of each device, at most [`MAX_EVENTS`](Self::MAX_EVENTS).
    pub events: u64,
}

impl Interrupts {
    /// Most ITSs of a machine.
    pub const MAX_TRANSLATORS: u64 = 4;
    /// Most devices of an ITS.
    pub const MAX_DEVICES: u64 = 1024;
    /// Most events of a device.
    pub const MAX_EVENTS: u64 = 32;
    /// Most events in all: each has two LPIs, and of LPIs there are 57,344 with 16 bits.
    pub const MAX_LINES: u64 = 16_384;

    /// Devices of each ITS unless the monitor chooses otherwise: 256 in a machine with two.
    pub const DEVICES: u64 = 128;
    /// Events of each device unless the monitor chooses otherwise.
    pub const EVENTS: u64 = 4;

    /// Checks the rules that the program relies on.
    ///
    /// # Errors
    ///
    /// The first rule broken.
    pub fn validate(&self, config: &Config) -> Result<(), InterruptsConfigError> {
        let &Self { area, distributor, redistributors, translators, count, devices, events } = self;
        for (what, number, most) in [
            (Counted::Translators, count, Self::MAX_TRANSLATORS),
            (Counted::Devices, devices, Self::MAX_DEVICES),
            (Counted::Events, events, Self::MAX_EVENTS),
            (Counted::Lines, count.saturating_mul(devices).saturating_mul(events), Self::MAX_LINES),
        ] {
            if number == 0 || number > most {
                return Err(InterruptsConfigError::Number { what, number, most });
            }
        }
        for frame in [distributor, redistributors, translators, area] {
            if !frame.is_multiple_of(Self::UNIT) || frame >= Self::END {
                return Err(InterruptsConfigError::Place(frame));
            }
        }
        let end = area + self.bytes(config);
        for (start, bytes) in [
            (config.mailbox, config.mailbox_bytes()),
            (config.ledger, config.ledger_bytes()),
            (config.hot, config.hot_bytes()),
        ] {
            if area < start + bytes && start < end {
                return Err(InterruptsConfigError::Overlap { area, region: start });
            }
        }
        Ok(())
    }

    /// How often all events together were raised, and how often taken. While programs run, the two are not of one
    /// instant.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn tally<L: Load>(&self, memory: &mut L, config: &Config) -> Result<Tally, L::Error> {
        let ledger = self.ledger(config);
        let mut all = Tally::default();
        for cell in ledger.cells() {
            let Tally { raised, taken } = ledger.tally(memory, cell)?;
            all.raised = all.raised.wrapping_add(raised);
            all.taken = all.taken.wrapping_add(taken);
        }
        Ok(all)
    }

    /// Notes in `report` what the ledger of a stopped machine has that cannot be.
    pub(crate) fn inspect<L: Load>(
        &self,
        memory: &mut L,
        config: &Config,
        report: &mut Report,
    ) -> Result<(), L::Error> {
        self.ledger(config).inspect(memory, report)
    }

    const fn ledger(&self, config: &Config) -> Ledger {
        Ledger { config: *config, interrupts: *self }
    }

    /// What a vCPU's handler of interrupts needs: the address of the word that counts interrupts other than the
    /// program's, and how many LPIs there are, counted in the words behind it from [`FIRST_LPI`] on.
    #[must_use]
    pub const fn handler(&self, config: &Config, vcpu: u64) -> (u64, u64) {
        (self.strays_gpa(config, vcpu), self.lpis())
    }
}

/// What there can be too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Interrupt translation services.
    Translators,
    /// Devices of one of them.
    Devices,
    /// Events of a device.
    Events,
    /// Events of all devices together.
    Lines,
}

/// A rule that an [`Interrupts`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptsConfigError {
    /// There are none of something, or too many.
    Number {
        /// Of what.
        what: Counted,
        /// How many.
        number: u64,
        /// How many there may be.
        most: u64,
    },
    /// An address that is no multiple of 64 KiB, or too far up.
    Place(u64),
    /// The tables overlap a region of the programs'.
    Overlap {
        /// Address of the tables.
        area: u64,
        /// Address of the region.
        region: u64,
    },
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Translators => "interrupt translation services",
            Self::Devices => "devices of an interrupt translation service",
            Self::Events => "events of a device",
            Self::Lines => "events in all",
        })
    }
}

impl fmt::Display for InterruptsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Number { what, number, most } => {
                write!(f, "{number} {what}; there may be 1 to {most}")
            }
            Self::Place(address) => {
                write!(
                    f,
                    "{address:#x} is no place for a frame or table: it is no multiple of 64 KiB, or too far up"
                )
            }
            Self::Overlap { area, region } => {
                write!(f, "the interrupt controller's tables at {area:#x} overlap the region at {region:#x}")
            }
        }
    }
}

impl core::error::Error for InterruptsConfigError {}
