//! In which order a program writes its pages.

use core::fmt;
use core::str::FromStr;

use crate::random::{Random, mix};

/// An order in which the pages of the hot region are written.
///
/// Every pattern is deterministic: the pages follow from the seed, the writer's index and the number of writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Page after page, for ever round; each writer starts in its own part.
    Sequential,
    /// Every page equally likely.
    Uniform,
    /// The page of rank *r* with probability proportional to 1/*r*; the ranks are scattered over the region.
    Zipf,
    /// `burst` neighbouring pages from a random one on, then `idle` steps without a write.
    Bursty {
        /// Pages in a burst, at least one.
        burst: u64,
        /// Idle steps between two bursts.
        idle: u64,
    },
    /// Page after page; from the second pass on each store writes the value that the word holds already, so pages are
    /// dirtied and no content changes.
    Rewrite,
}

impl Pattern {
    /// Every pattern, in the order of their codes; [`Bursty`](Self::Bursty) with its default parameters.
    pub const ALL: [Self; 5] = [
        Self::Sequential,
        Self::Uniform,
        Self::Zipf,
        Self::Bursty { burst: 256, idle: 65_536 },
        Self::Rewrite,
    ];

    /// The name on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Bursty { .. } => "bursty",
            Self::Rewrite => "rewrite",
        }
    }

    /// Code and two parameters, as the mailbox holds them.
    #[must_use]
    pub const fn to_words(self) -> [u64; 3] {
        match self {
            Self::Sequential => [1, 0, 0],
            Self::Uniform => [2, 0, 0],
            Self::Zipf => [3, 0, 0],
            Self::Bursty { burst, idle } => [4, burst, idle],
            Self::Rewrite => [5, 0, 0],
        }
    }

    /// The pattern of these words, or `None` where there is no such code or a burst is empty.
    #[must_use]
    pub const fn from_words(words: [u64; 3]) -> Option<Self> {
        match words {
            [1, 0, 0] => Some(Self::Sequential),
            [2, 0, 0] => Some(Self::Uniform),
            [3, 0, 0] => Some(Self::Zipf),
            [4, burst, idle] if burst > 0 => Some(Self::Bursty { burst, idle }),
            [5, 0, 0] => Some(Self::Rewrite),
            _ => None,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Bursty { burst, idle } => write!(f, ":{burst}:{idle}"),
            _ => Ok(()),
        }
    }
}

/// A text that names no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPattern;

impl fmt::Display for UnknownPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown pattern; choose sequential, uniform, zipf, bursty, bursty:PAGES:IDLE or rewrite")
    }
}

impl core::error::Error for UnknownPattern {}

impl FromStr for Pattern {
    type Err = UnknownPattern;

    /// Reads a [`name`](Self::name), for `bursty` optionally followed by `:PAGES:IDLE`.
    fn from_str(text: &str) -> Result<Self, UnknownPattern> {
        if let Some(pattern) = Self::ALL.into_iter().find(|pattern| pattern.name() == text) {
            return Ok(pattern);
        }
        let parameters = text.strip_prefix("bursty:").ok_or(UnknownPattern)?;
        let (burst, idle) = parameters.split_once(':').ok_or(UnknownPattern)?;
        match (burst.parse(), idle.parse()) {
            (Ok(burst), Ok(idle)) if burst > 0 => Ok(Self::Bursty { burst, idle }),
            _ => Err(UnknownPattern),
        }
    }
}

/// What comes next: a page, and how many steps to idle after it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Index of the page in the hot region.
    pub page: u64,
    /// Steps without a write that follow.
    pub idle: u64,
}

/// A pattern under way: three words of state beside the pattern itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picker {
    pattern: Pattern,
    pages: u64,
    random: Random,
    cursor: u64,
    left: u64,
}

/// A prime above [`Config::MAX_PAGES`](crate::Config::MAX_PAGES), hence coprime to every number of pages:
/// multiplying a rank by it permutes the region.
const SCATTER: u64 = 2_654_435_761;

impl Picker {
    /// The beginning of `pattern` over `pages` pages for `writer` of `writers`.
    ///
    /// `pages` and `writers` are at least one, and `pages` at most [`Config::MAX_PAGES`](crate::Config::MAX_PAGES), as
    /// [`Config::validate`](crate::Config::validate) ensures.
    #[must_use]
    pub fn new(pattern: Pattern, pages: u64, seed: u64, writer: u64, writers: u64) -> Self {
        let part = pages / writers.max(1);
        Self {
            pattern,
            pages,
            random: Random(mix(seed) ^ mix(writer.wrapping_add(1))),
            cursor: writer.wrapping_mul(part) % pages.max(1),
            left: 0,
        }
    }

    /// The next page.
    #[inline]
    pub fn pick(&mut self) -> Pick {
        match self.pattern {
            Pattern::Sequential | Pattern::Rewrite => Pick { page: self.advance(), idle: 0 },
            Pattern::Uniform => Pick { page: self.random.below(self.pages), idle: 0 },
            Pattern::Zipf => Pick { page: self.zipf(), idle: 0 },
            Pattern::Bursty { burst, idle } => {
                if self.left == 0 {
                    self.left = burst;
                    self.cursor = self.random.below(self.pages);
                }
                self.left -= 1;
                Pick { page: self.advance(), idle: if self.left == 0 { idle } else { 0 } }
            }
        }
    }

    /// The state for [`restore`](Self::restore).
    #[must_use]
    pub const fn to_words(&self) -> [u64; 3] {
        [self.random.0, self.cursor, self.left]
    }

    /// A picker in the state that [`to_words`](Self::to_words) gave, or `None` where no run of this pattern has it.
    #[must_use]
    pub fn restore(pattern: Pattern, pages: u64, [random, cursor, left]: [u64; 3]) -> Option<Self> {
        let longest = if let Pattern::Bursty { burst, .. } = pattern { burst } else { 1 };
        let state = Self { pattern, pages, random: Random(random), cursor, left };
        (cursor < pages && left < longest).then_some(state)
    }

    #[inline]
    fn advance(&mut self) -> u64 {
        let page = self.cursor;
        self.cursor = if page + 1 < self.pages { page + 1 } else { 0 };
        page
    }

    /// Exact 1/r without a logarithm: every octave `[2^j, 2^(j+1))` of ranks has about the same weight, so take one
    /// uniformly, a rank in it uniformly, and keep the rank with probability `2^j / rank`, which is above one half.
    #[inline]
    fn zipf(&mut self) -> u64 {
        let octaves = u64::from(self.pages.ilog2()) + 1;
        loop {
            let low = 1 << self.random.below(octaves);
            let rank = low + self.random.below(low);
            if rank <= self.pages && self.random.below(rank) < low {
                return (rank - 1).wrapping_mul(SCATTER) % self.pages;
            }
        }
    }
}
