//! A program's state as plain words.

use core::fmt;

use super::{Pending, Program};
use crate::config::{Config, ConfigError};
use crate::damage::{Damage, DamageKind, Report};
use crate::pattern::Picker;
use crate::status::InFlight;

/// Begins a saved state and says which version of it follows.
const FORMAT: u64 = u64::from_le_bytes(*b"RINGPRG1");

impl Program {
    /// Words of a saved state.
    pub const WORDS: usize = 17 + Config::WORDS + 10;

    /// The whole state: what the page write in flight has chosen is in it, the progress of a check is not (the check
    /// begins again).
    #[must_use]
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        let pending = self.pending.map_or([0; 5], |pending| {
            let InFlight { page, sequence, previous } = pending.write;
            [page.wrapping_add(1), sequence, previous, pending.stamp, pending.idle]
        });
        let first = self.found.damages().next();
        let first =
            first.map_or([0; 4], |damage| [damage.kind.to_word(), damage.gfn, damage.expected, damage.seen]);
        let counts = [
            FORMAT,
            self.writer,
            self.idle,
            self.written,
            self.sequence,
            self.sum,
            self.device_seen,
            self.heartbeat,
            self.checked,
            self.found.damaged,
        ];
        let mut words = [0; Self::WORDS];
        let parts: [&[u64]; 5] =
            [&counts, &self.config.to_words(), &self.picker.to_words(), &pending, &first];
        let state = parts.into_iter().flatten();
        words.iter_mut().zip(state).for_each(|(word, &part)| *word = part);
        words
    }

    /// The program whose [`to_words`](Self::to_words) these are.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] for words that no program gives; they may come from anywhere.
    pub fn from_words(words: &[u64; Self::WORDS]) -> Result<Self, RestoreError> {
        let (counts, rest) = words.split_first_chunk::<10>().ok_or(RestoreError::Format)?;
        let (config, rest) = rest.split_first_chunk::<{ Config::WORDS }>().ok_or(RestoreError::Format)?;
        let (picker, rest) = rest.split_first_chunk::<3>().ok_or(RestoreError::Format)?;
        let (pending, rest) = rest.split_first_chunk::<5>().ok_or(RestoreError::Format)?;
        let first = rest.first_chunk::<4>().ok_or(RestoreError::Format)?;

        let &[format, writer, idle, written, sequence, sum, device_seen, heartbeat, checked, damaged] =
            counts;
        if format != FORMAT {
            return Err(RestoreError::Format);
        }
        let config = Config::from_words(*config).map_err(RestoreError::Config)?;
        let fresh = Self::new(config, writer).map_err(RestoreError::Config)?;
        let picker = Picker::restore(config.pattern, config.pages, *picker).ok_or(RestoreError::Picker)?;
        let pending = match *pending {
            [0, ..] => None,
            [page, sequence, previous, stamp, idle] if page <= config.pages => {
                Some(Pending { write: InFlight { page: page - 1, sequence, previous }, stamp, idle })
            }
            [page, ..] => return Err(RestoreError::InFlight { page: page - 1, pages: config.pages }),
        };
        let mut found = Report::default();
        let &[kind, gfn, expected, seen] = first;
        if let Some(kind) = DamageKind::from_word(kind) {
            found.add(Damage { kind, gfn, writer, expected, seen });
        }
        found.damaged = damaged;
        Ok(Self {
            picker,
            idle,
            written,
            sequence,
            sum,
            device_seen,
            heartbeat,
            checked,
            pending,
            found,
            ..fresh
        })
    }
}

/// Why words are not a program's saved state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// They are of another kind or version.
    Format,
    /// Their configuration breaks a rule.
    Config(ConfigError),
    /// Their pattern state belongs to no run of the pattern.
    Picker,
    /// The page in flight is outside the hot region.
    InFlight {
        /// Index of the page.
        page: u64,
        /// Pages in the region.
        pages: u64,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("not the saved state of a guest program of this version"),
            Self::Config(error) => {
                write!(f, "the saved program's configuration is impossible: {error}")
            }
            Self::Picker => f.write_str("the saved program's pattern state is impossible"),
            Self::InFlight { page, pages } => {
                write!(f, "the saved program is writing page {page} of a region of {pages} pages")
            }
        }
    }
}

impl core::error::Error for RestoreError {}
