//! How a machine's programs learn of the interrupt controller: words in the mailbox's first page.
//!
//! | offset | word |
//! |---|---|
//! | 0x100 | magic, `RINGITS1`; zero where there is no interrupt controller |
//! | 0x108 | address of the memory for the tables |
//! | 0x110, 0x118, 0x120 | frames of distributor, redistributors, first ITS |
//! | 0x128, 0x130, 0x138 | ITSs, devices of each, events of each device |
//! | 0x140 | checksum of the words above but the magic |

use core::fmt;

use super::{Interrupts, InterruptsConfigError};
use crate::config::Config;
use crate::memory::{Load, Memory};
use crate::random::checksum;

const MAGIC: u64 = u64::from_le_bytes(*b"RINGITS1");
const START: u64 = 0x100;
const WORDS: usize = 7;

impl Interrupts {
    /// Writes it to the mailbox, beside a `config` that is published there, before the programs start.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn publish<M: Memory>(&self, memory: &mut M, config: &Config) -> Result<(), M::Error> {
        let start = config.mailbox + START;
        let words = self.to_words();
        for (gpa, word) in (start + 8..).step_by(8).zip(words) {
            memory.store(gpa, word)?;
        }
        memory.store(start + 8 + 8 * WORDS as u64, checksum(&words))?;
        memory.store(start, MAGIC)
    }

    /// Reads it from the mailbox of `config`; `None` where none was published.
    ///
    /// # Errors
    ///
    /// [`InterruptsError::Memory`] with the memory's error, otherwise what is wrong with it.
    pub fn load<L: Load>(memory: &mut L, config: &Config) -> Result<Option<Self>, InterruptsError<L::Error>> {
        let start = config.mailbox + START;
        let mut load = |gpa| memory.load(gpa).map_err(InterruptsError::Memory);
        match load(start)? {
            0 => return Ok(None),
            MAGIC => {}
            magic => return Err(InterruptsError::Magic(magic)),
        }
        let mut words = [0; WORDS];
        for (gpa, word) in (start + 8..).step_by(8).zip(&mut words) {
            *word = load(gpa)?;
        }
        if load(start + 8 + 8 * WORDS as u64)? != checksum(&words) {
            return Err(InterruptsError::Checksum);
        }
        let [area, distributor, redistributors, translators, count, devices, events] = words;
        let interrupts = Self { area, distributor, redistributors, translators, count, devices, events };
        interrupts.validate(config).map_err(InterruptsError::Config)?;
        Ok(Some(interrupts))
    }

    const fn to_words(self) -> [u64; WORDS] {
        let Self { area, distributor, redistributors, translators, count, devices, events } = self;
        [area, distributor, redistributors, translators, count, devices, events]
    }
}

/// Why the mailbox tells nothing of an interrupt controller; `E` is the memory's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptsError<E> {
    /// The memory could not be read.
    Memory(E),
    /// It begins with another word.
    Magic(u64),
    /// The words don't fit their checksum.
    Checksum,
    /// They break a rule.
    Config(InterruptsConfigError),
}

impl<E: fmt::Display> fmt::Display for InterruptsError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "the mailbox cannot be read: {error}"),
            Self::Magic(magic) => {
                write!(f, "the mailbox tells nothing of an interrupt controller: it has {magic:#x} there")
            }
            Self::Checksum => f.write_str(
                "what the mailbox tells of the interrupt controller is damaged: its checksum is wrong",
            ),
            Self::Config(error) => write!(f, "the mailbox asks for the impossible: {error}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for InterruptsError<E> {}
