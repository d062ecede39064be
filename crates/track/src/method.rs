//! What a user may wish for and what a host gives: the ways of tracking.

use std::fmt;

/// How the writes of a VM's vCPUs are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A dirty ring a vCPU and no bitmap of the kernel: all that x86 offers. What the kernel itself writes without a
    /// running vCPU is not logged there.
    Ring {
        /// Entries in each vCPU's ring.
        entries: u32,
    },
    /// A dirty ring a vCPU, and a backup bitmap a memslot for writes without a running vCPU.
    RingWithBitmap {
        /// Entries in each vCPU's ring.
        entries: u32,
    },
    /// A stand-alone bitmap a memslot, with manual protect.
    Bitmap,
}

impl Method {
    /// Entries in each vCPU's ring, or `None` where there is no ring.
    #[must_use]
    pub const fn ring_entries(self) -> Option<u32> {
        match self {
            Self::Ring { entries } | Self::RingWithBitmap { entries } => Some(entries),
            Self::Bitmap => None,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring { entries } => write!(f, "ring of {entries} entries"),
            Self::RingWithBitmap { entries } => write!(f, "ring of {entries} entries with backup bitmap"),
            Self::Bitmap => f.write_str("bitmap"),
        }
    }
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wish {
    /// The best the host has.
    #[default]
    Auto,
    /// Rings, or an error.
    Ring {
        /// Entries in each vCPU's ring, a power of two; `None` for the largest the host allows.
        entries: Option<u32>,
    },
    /// Stand-alone bitmaps, or an error.
    Bitmap,
}

/// What was negotiated with the host, for the life of the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The way of tracking now in force.
    pub method: Method,
    /// One sentence for the user: why this way.
    pub why: String,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method, self.why)
    }
}
