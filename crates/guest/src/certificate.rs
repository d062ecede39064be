//! The certificate: what a writer leaves in every page it writes.
//!
//! | offset | word |
//! |---|---|
//! | 0x00 | magic, `CERTPAGE` |
//! | 0x08 | gfn of the page |
//! | 0x10 | writer |
//! | 0x18 | the machine's seed |
//! | 0x20 | sequence number: the writer's count of new certificates |
//! | 0x28 | stamp: the newest device record the writer had seen; zero with [`Pattern::Rewrite`](crate::Pattern::Rewrite) |
//! | 0x30 | checksum of the words above |
//!
//! The words are stored in this order. The first four never change once written, so a write that was cut shows in the
//! sequence number, the stamp or the checksum only.

use crate::memory::{Load, Memory};
use crate::random::mix;

/// Bytes that a writer has in each page.
pub const LANE_BYTES: u64 = 64;

/// Words of a certificate.
pub(crate) const WORDS: usize = 7;

const MAGIC: u64 = u64::from_le_bytes(*b"CERTPAGE");
const SEQUENCE: u64 = 0x20;

/// Who wrote a page, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Frame of the page.
    pub gfn: u64,
    /// Index of the writer.
    pub writer: u64,
    /// Seed of the machine.
    pub seed: u64,
    /// The writer's sequence number, from one.
    pub sequence: u64,
    /// The newest device record the writer had seen.
    pub stamp: u64,
}

impl Certificate {
    /// The words in the order in which they are stored.
    #[must_use]
    #[inline]
    pub fn to_words(&self) -> [u64; WORDS] {
        let Self { gfn, writer, seed, sequence, stamp } = *self;
        [MAGIC, gfn, writer, seed, sequence, stamp, self.checksum()]
    }

    /// The certificate of `words`, or `None` where they don't fit together.
    #[must_use]
    pub fn from_words(words: &[u64; WORDS]) -> Option<Self> {
        let &[_, gfn, writer, seed, sequence, stamp, _] = words;
        let certificate = Self { gfn, writer, seed, sequence, stamp };
        (certificate.to_words() == *words).then_some(certificate)
    }

    #[inline]
    pub(crate) fn store<M: Memory>(&self, memory: &mut M, lane: u64) -> Result<(), M::Error> {
        for (gpa, word) in (lane..).step_by(8).zip(self.to_words()) {
            memory.store(gpa, word)?;
        }
        Ok(())
    }

    /// The words at `lane`, whatever they are.
    #[inline]
    pub(crate) fn load_words<L: Load>(memory: &mut L, lane: u64) -> Result<[u64; WORDS], L::Error> {
        let mut words = [0; WORDS];
        for (gpa, word) in (lane..).step_by(8).zip(&mut words) {
            *word = memory.load(gpa)?;
        }
        Ok(words)
    }

    /// Only the sequence number at `lane`.
    #[inline]
    pub(crate) fn load_sequence<L: Load>(memory: &mut L, lane: u64) -> Result<u64, L::Error> {
        memory.load(lane + SEQUENCE)
    }

    #[inline]
    fn checksum(&self) -> u64 {
        let place = mix(self.gfn ^ self.seed) ^ self.writer;
        mix(mix(place ^ mix(self.sequence)) ^ self.stamp) | 1
    }
}
