//! The word with which the monitor steers every program.

/// What all programs of a machine are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write pages.
    Run,
    /// Check every page once for this [`number`](Control::number), publish the result, and hold until the word changes.
    Check,
    /// Finish the page in flight and stop for good.
    Stop,
}

/// The control word: a command and its number.
///
/// Programs look at it between two page writes. The number tells one check from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// What to do.
    pub command: Command,
    /// The last check asked for, zero for none; of the 64 bits, 56 are kept.
    pub number: u64,
}

impl Control {
    /// Write pages.
    pub const RUN: Self = Self { command: Command::Run, number: 0 };
    /// Stop for good.
    pub const STOP: Self = Self { command: Command::Stop, number: 0 };

    /// Check `number`, which none before had; zero is the number of no check.
    #[must_use]
    pub const fn check(number: u64) -> Self {
        Self { command: Command::Check, number }
    }

    /// The word in memory: the number above the lowest byte, which holds the command.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        let code = match self.command {
            Command::Run => 1,
            Command::Check => 2,
            Command::Stop => 3,
        };
        self.number << 8 | code
    }

    /// The control of a word, or `None` for a word without a command; programs hold then.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        let command = match word & 0xff {
            1 => Command::Run,
            2 => Command::Check,
            3 => Command::Stop,
            _ => return None,
        };
        Some(Self { command, number: word >> 8 })
    }
}
