//! What a machine's programs share: the regions, the pattern, the seed.

use core::fmt;

use crate::certificate::LANE_BYTES;
use crate::pattern::Pattern;

/// The regions of a machine's guest memory and what its programs do with them.
///
/// ```text
/// mailbox   page 0        header: this configuration and the control word
///           page 1        device page, written by the monitor
///           page 2 + w    status of writer w
/// ledger    per writer    tally page, then eight bytes a hot page: its last sequence number, zero for none
/// hot       pages         a 64-byte certificate for each writer, at writer × 64
/// ```
///
/// All three are zero when the programs start, except the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Guest-physical address of the mailbox, a multiple of the page size.
    pub mailbox: u64,
    /// Bytes in a page: the granule of dirty tracking.
    pub page_size: u64,
    /// Guest-physical address of the hot region, a multiple of the page size.
    pub hot: u64,
    /// Pages in the hot region.
    pub pages: u64,
    /// Guest-physical address of the ledger, a multiple of the page size.
    pub ledger: u64,
    /// Programs, one a vCPU; writers are numbered from zero.
    pub writers: u64,
    /// In which order pages are written.
    pub pattern: Pattern,
    /// Idle steps after every page write; zero is flat out.
    pub pace: u64,
    /// Tells this machine's certificates from another's and determines the pattern.
    pub seed: u64,
}

impl Config {
    /// Most pages a hot region can have.
    pub const MAX_PAGES: u64 = 1 << 31;

    /// First address that no region reaches.
    const END: u64 = 1 << 52;

    /// Words that [`to_words`](Self::to_words) gives.
    pub(crate) const WORDS: usize = 11;

    /// Checks the rules that every program relies on.
    ///
    /// # Errors
    ///
    /// The first rule broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.page_size.is_power_of_two() || self.page_size < 512 || self.page_size > 1 << 21 {
            return Err(ConfigError::PageSize(self.page_size));
        }
        if self.pages == 0 || self.pages > Self::MAX_PAGES {
            return Err(ConfigError::Pages(self.pages));
        }
        let lanes = self.page_size / LANE_BYTES;
        if self.writers == 0 || self.writers > lanes {
            return Err(ConfigError::Writers { writers: self.writers, lanes });
        }
        if Pattern::from_words(self.pattern.to_words()).is_none() {
            return Err(ConfigError::Pattern);
        }
        let regions = [
            (self.mailbox, self.mailbox_bytes()),
            (self.ledger, self.ledger_bytes()),
            (self.hot, self.hot_bytes()),
        ];
        for (index, &(start, bytes)) in regions.iter().enumerate() {
            if start % self.page_size != 0 || start >= Self::END || bytes > Self::END - start {
                return Err(ConfigError::Region { start, bytes });
            }
            for &(other, length) in &regions[..index] {
                if start < other + length && other < start + bytes {
                    return Err(ConfigError::Overlap { first: other, second: start });
                }
            }
        }
        Ok(())
    }

    /// This configuration with ledger and hot region laid, in this order, at the start of the free range `start..end`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoRoom`] where they don't fit, and whatever [`validate`](Self::validate) finds.
    pub fn place(self, start: u64, end: u64) -> Result<Self, ConfigError> {
        let probe = Self { mailbox: 0, ledger: 1 << 50, hot: 1 << 51, ..self };
        probe.validate()?;
        let no_room = |bytes| ConfigError::NoRoom { bytes, start, end };
        let needed = self.ledger_bytes() + self.hot_bytes();
        let ledger = start.checked_next_multiple_of(self.page_size).ok_or(no_room(needed))?;
        if end < ledger || end - ledger < needed {
            return Err(no_room(needed));
        }
        let placed = Self { ledger, hot: ledger + self.ledger_bytes(), ..self };
        placed.validate()?;
        Ok(placed)
    }

    /// Bytes of the mailbox.
    #[must_use]
    pub const fn mailbox_bytes(&self) -> u64 {
        (2 + self.writers) * self.page_size
    }

    /// Bytes of all ledgers.
    #[must_use]
    pub const fn ledger_bytes(&self) -> u64 {
        self.writers * self.ledger_stride()
    }

    /// Bytes of the hot region.
    #[must_use]
    pub const fn hot_bytes(&self) -> u64 {
        self.pages * self.page_size
    }

    /// Frame of hot page `page`.
    #[must_use]
    #[inline]
    pub const fn gfn(&self, page: u64) -> u64 {
        self.gfn_of(self.hot) + page
    }

    /// Frame that holds `gpa`.
    #[inline]
    pub(crate) const fn gfn_of(&self, gpa: u64) -> u64 {
        gpa >> self.page_size.trailing_zeros()
    }

    /// Address of the certificate of `writer` in hot page `page`.
    #[inline]
    pub(crate) const fn lane_gpa(&self, writer: u64, page: u64) -> u64 {
        self.hot + (page << self.page_size.trailing_zeros()) + writer * LANE_BYTES
    }

    /// Address of the tally word of `writer`: how many pages it has written.
    #[inline]
    pub(crate) const fn tally_gpa(&self, writer: u64) -> u64 {
        self.ledger + writer * self.ledger_stride()
    }

    /// Address of the last sequence number of `writer` in hot page `page`.
    #[inline]
    pub(crate) const fn ledger_gpa(&self, writer: u64, page: u64) -> u64 {
        self.tally_gpa(writer) + self.page_size + page * 8
    }

    /// Address of the device page.
    #[must_use]
    #[inline]
    pub const fn device_gpa(&self) -> u64 {
        self.mailbox + self.page_size
    }

    /// Address of the status page of `writer`.
    #[must_use]
    #[inline]
    pub const fn status_gpa(&self, writer: u64) -> u64 {
        self.mailbox + (2 + writer) * self.page_size
    }

    const fn ledger_stride(&self) -> u64 {
        let mask = self.page_size - 1;
        self.page_size + ((self.pages * 8 + mask) & !mask)
    }

    pub(crate) const fn to_words(self) -> [u64; Self::WORDS] {
        let [pattern, first, second] = self.pattern.to_words();
        [
            self.page_size,
            self.hot,
            self.pages,
            self.ledger,
            self.writers,
            pattern,
            first,
            second,
            self.pace,
            self.seed,
            self.mailbox,
        ]
    }

    pub(crate) fn from_words(words: [u64; Self::WORDS]) -> Result<Self, ConfigError> {
        let [page_size, hot, pages, ledger, writers, pattern, first, second, pace, seed, mailbox] = words;
        let pattern = Pattern::from_words([pattern, first, second]).ok_or(ConfigError::Pattern)?;
        let config = Self { mailbox, page_size, hot, pages, ledger, writers, pattern, pace, seed };
        config.validate()?;
        Ok(config)
    }
}

/// A rule that a configuration breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The page size in bytes is no power of two from 512 to 2 MiB.
    PageSize(u64),
    /// The hot region is empty or has more than [`Config::MAX_PAGES`] pages.
    Pages(u64),
    /// There are no writers, or more than a page has lanes.
    Writers {
        /// Writers asked for.
        writers: u64,
        /// Lanes in a page.
        lanes: u64,
    },
    /// The words name no pattern.
    Pattern,
    /// A region does not begin at a page or reaches past 2⁵².
    Region {
        /// Its address.
        start: u64,
        /// Its length.
        bytes: u64,
    },
    /// Two regions overlap.
    Overlap {
        /// Address of one.
        first: u64,
        /// Address of the other.
        second: u64,
    },
    /// Ledger and hot region don't fit into the free range.
    NoRoom {
        /// Bytes that both need.
        bytes: u64,
        /// Start of the range.
        start: u64,
        /// End of the range.
        end: u64,
    },
    /// A writer's index is not below the number of writers.
    Writer {
        /// The index.
        writer: u64,
        /// Number of writers.
        writers: u64,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PageSize(bytes) => {
                write!(f, "page size {bytes} is no power of two from 512 bytes to 2 MiB")
            }
            Self::Pages(0) => f.write_str("the hot region is empty; give it at least one page"),
            Self::Pages(pages) => {
                write!(f, "{pages} hot pages are too many; at most {} are possible", Config::MAX_PAGES)
            }
            Self::Writers { writers, lanes } => {
                write!(f, "{writers} writers for {lanes} lanes a page; use 1 to {lanes} vCPUs")
            }
            Self::Pattern => f.write_str("the pattern's words name no pattern"),
            Self::Region { start, bytes } => {
                write!(
                    f,
                    "the region of {bytes:#x} bytes at {start:#x} is not page-aligned or reaches too far up"
                )
            }
            Self::Overlap { first, second } => {
                write!(f, "the regions at {first:#x} and {second:#x} overlap")
            }
            Self::NoRoom { bytes, start, end } => write!(
                f,
                "ledger and hot pages need {bytes:#x} bytes, more than {start:#x}..{end:#x} has; \
                 give the machine more memory or fewer hot pages"
            ),
            Self::Writer { writer, writers } => {
                write!(f, "vCPU {writer} is not one of the {writers} writers")
            }
        }
    }
}

impl core::error::Error for ConfigError {}
