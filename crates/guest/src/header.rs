//! The mailbox's first page: how a machine's programs learn what to do.
//!
//! | offset | word |
//! |---|---|
//! | 0x00 | magic, `RINGMARK` |
//! | 0x08 | version, 1 |
//! | 0x10 | bytes in a page |
//! | 0x18, 0x20 | hot region: address, pages |
//! | 0x28 | ledger address |
//! | 0x30 | writers |
//! | 0x38, 0x40, 0x48 | pattern: code, two parameters |
//! | 0x50 | idle steps after each write |
//! | 0x58 | seed |
//! | 0x60 | mailbox address |
//! | 0x68 | checksum of the words above |
//! | 0x80 | control word ([`Control`]) |

use core::fmt;

use crate::config::{Config, ConfigError};
use crate::control::{Command, Control};
use crate::memory::{Load, Memory};
use crate::random::checksum;

/// Where the built-in guests' mailbox lies unless the monitor chooses otherwise: below 640 KiB, on a boundary of every
/// host page size, with room for the most writers.
pub const MAILBOX: u64 = 0x1_0000;

/// The first word of a mailbox, `RINGMARK` in memory.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RINGMARK");

const VERSION: u64 = 1;
const CONFIG: u64 = 0x10;
const CHECKSUM: u64 = 0x68;
const CONTROL: u64 = 0x80;

impl Config {
    /// Writes the header, so that programs can start, with `control` as their first command.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn publish<M: Memory>(&self, memory: &mut M, control: Control) -> Result<(), M::Error> {
        memory.store(self.control_gpa(), control.to_word())?;
        let words = self.to_words();
        for (gpa, word) in (self.mailbox + CONFIG..).step_by(8).zip(words) {
            memory.store(gpa, word)?;
        }
        memory.store(self.mailbox + CHECKSUM, header_checksum(&words))?;
        memory.store(self.mailbox + 8, VERSION)?;
        memory.store(self.mailbox, MAGIC)
    }

    /// Reads the header at `mailbox`.
    ///
    /// # Errors
    ///
    /// [`HeaderError::Memory`] with the memory's error, otherwise what is wrong with the header.
    pub fn load<L: Load>(memory: &mut L, mailbox: u64) -> Result<Self, HeaderError<L::Error>> {
        let mut load = |offset| memory.load(mailbox + offset).map_err(HeaderError::Memory);
        let magic = load(0)?;
        if magic != MAGIC {
            return Err(HeaderError::Magic { mailbox, magic });
        }
        let version = load(8)?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let mut words = [0; Self::WORDS];
        for (offset, word) in (CONFIG..).step_by(8).zip(&mut words) {
            *word = load(offset)?;
        }
        if load(CHECKSUM)? != header_checksum(&words) {
            return Err(HeaderError::Checksum { mailbox });
        }
        let config = Self::from_words(words).map_err(HeaderError::Config)?;
        if config.mailbox != mailbox {
            return Err(HeaderError::Moved { mailbox, made_for: config.mailbox });
        }
        Ok(config)
    }

    /// Tells every program what to do from now on.
    ///
    /// The number counts for checks only ([`request_check`](crate::request_check) finds one); with other commands the
    /// last check's number stays in the word.
    ///
    /// # Errors
    ///
    /// The memory's; the command was not given.
    pub fn set_control<M: Memory>(&self, memory: &mut M, control: Control) -> Result<(), M::Error> {
        let number = match control.command {
            Command::Check => control.number,
            Command::Run | Command::Stop => {
                Control::from_word(memory.load(self.control_gpa())?).map_or(0, |last| last.number)
            }
        };
        memory.store(self.control_gpa(), Control { number, ..control }.to_word())
    }

    /// What programs are told to do, or `None` where the word holds no command.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn control<L: Load>(&self, memory: &mut L) -> Result<Option<Control>, L::Error> {
        Ok(Control::from_word(memory.load(self.control_gpa())?))
    }

    /// Address of the control word.
    #[must_use]
    #[inline]
    pub const fn control_gpa(&self) -> u64 {
        self.mailbox + CONTROL
    }
}

fn header_checksum(words: &[u64; Config::WORDS]) -> u64 {
    checksum(words)
}

/// Why a page is not the header of a mailbox; `E` is the memory's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError<E> {
    /// The memory could not be read.
    Memory(E),
    /// The page begins with another word.
    Magic {
        /// Address of the page.
        mailbox: u64,
        /// What it begins with.
        magic: u64,
    },
    /// The header is of another version.
    Version(u64),
    /// The header's words don't fit its checksum.
    Checksum {
        /// Address of the page.
        mailbox: u64,
    },
    /// The header was made for another address.
    Moved {
        /// Address of the page.
        mailbox: u64,
        /// Address in the header.
        made_for: u64,
    },
    /// The header's configuration breaks a rule.
    Config(ConfigError),
}

impl<E: fmt::Display> fmt::Display for HeaderError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "the mailbox cannot be read: {error}"),
            Self::Magic { mailbox, magic } => {
                write!(f, "no mailbox at {mailbox:#x}: it begins with {magic:#x}")
            }
            Self::Version(version) => {
                write!(f, "the mailbox is of version {version}; this program reads version {VERSION}")
            }
            Self::Checksum { mailbox } => {
                write!(f, "the mailbox at {mailbox:#x} is damaged: its checksum is wrong")
            }
            Self::Moved { mailbox, made_for } => {
                write!(f, "the mailbox at {mailbox:#x} was made for {made_for:#x}")
            }
            Self::Config(error) => write!(f, "the mailbox asks for the impossible: {error}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for HeaderError<E> {}
