//! Guest frame numbers and the page size they are counted in.

use core::fmt;

/// A guest frame number: a guest-physical address divided by the page size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u64);

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The granule of dirty tracking in bytes: a power of two from 512 bytes to 1 GiB.
///
/// KVM tracks in pages of the *host* (`PAGE_SIZE`), which are 4, 16 or 64 KiB, so the size is a value that travels
/// with every memory layout and never a constant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    shift: u32,
}

impl PageSize {
    /// The page size of `bytes`, or `None` unless that is a power of two from 512 bytes to 1 GiB.
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 1 << 30 {
            Some(Self { shift: bytes.trailing_zeros() })
        } else {
            None
        }
    }

    /// Bytes in a page.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Binary logarithm of [`bytes`](Self::bytes).
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift
    }

    /// Whole pages in `bytes`; a partial page at the end is not counted.
    #[must_use]
    pub const fn pages_in(self, bytes: u64) -> u64 {
        bytes >> self.shift
    }

    /// Whether `address` is the first byte of a page.
    #[must_use]
    pub const fn is_aligned(self, address: u64) -> bool {
        address & (self.bytes() - 1) == 0
    }

    /// The frame that holds the byte at guest-physical `address`.
    #[must_use]
    pub const fn gfn(self, address: u64) -> Gfn {
        Gfn(address >> self.shift)
    }

    /// The guest-physical address of the first byte of `gfn`, or `None` where it lies past the end of 64 bits.
    #[must_use]
    pub const fn address(self, gfn: Gfn) -> Option<u64> {
        if gfn.0 >> (64 - self.shift) == 0 { Some(gfn.0 << self.shift) } else { None }
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({})", self.bytes())
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes() {
            bytes @ ..1024 => write!(f, "{bytes} B"),
            bytes @ ..0x10_0000 => write!(f, "{} KiB", bytes / 1024),
            bytes => write!(f, "{} MiB", bytes / 0x10_0000),
        }
    }
}
