//! How a machine is to leave.

use std::time::Duration;

use ringmark_track::AuditRate;

use crate::wire::Encoding;

/// How memory is to get to the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryWish {
    /// [By descriptor](crate::memory_file) where both sides can, else as a copy.
    #[default]
    Auto,
    /// Page by page, in any case.
    Copy,
    /// By descriptor, or not at all.
    Descriptor,
}

/// How a machine is to leave.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// How its memory gets there. What follows on pages means a copy.
    pub memory: MemoryWish,
    /// Connections for pages.
    pub streams: u16,
    /// The encodings that may be used.
    pub encodings: Vec<Encoding>,
    /// Bytes a second at most.
    pub bandwidth: Option<u64>,
    /// The downtime to aim at.
    pub max_downtime: Duration,
    /// After this long no further round is begun: the guest is stopped, or the migration given up.
    pub max_total: Option<Duration>,
    /// What matters more where both cannot be had: that the guest runs on as it does, or the downtime and the total.
    pub prefer: Prefer,
    /// Slow down the vCPUs that write most where the rounds do not get small enough by themselves and the downtime is
    /// preferred to the guest.
    pub throttle: bool,
    /// Bytes of copies kept to send differences to.
    pub held: usize,
    /// Compare the whole of memory, too, before the guest runs.
    pub verify_full: bool,
    /// Hash so much of memory at the cut, and give the migration up if a page is not as it was sent last: a write to it was
    /// reported by nobody.
    pub audit: Option<AuditRate>,
    /// How long a destination that fell silent after the commit is asked before a person is.
    pub ask_for: Duration,
}

/// What gives way if the downtime aimed at cannot be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The goal: the migration is given up and the guest runs on.
    Guest,
    /// The migration: the guest is [slowed down](SendOptions::throttle) where that helps, and it is completed with the downtime
    /// that is possible then.
    #[default]
    Downtime,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            memory: MemoryWish::default(),
            streams: 1,
            encodings: vec![
                Encoding::Zero,
                Encoding::Word,
                Encoding::Raw,
                Encoding::Lz4,
                Encoding::Zstd,
                Encoding::Delta,
            ],
            bandwidth: None,
            max_downtime: Duration::from_millis(300),
            max_total: None,
            prefer: Prefer::default(),
            throttle: true,
            held: 64 << 20,
            verify_full: false,
            audit: None,
            ask_for: Duration::from_secs(10),
        }
    }
}
