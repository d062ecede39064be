//! A vCPU's cache of translations.

use crate::memory::HostAddress;

/// Translations a vCPU remembers; a power of two.
const ENTRIES: usize = 1024;

/// One remembered translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    /// The frame, with the address space in the top byte: a frame has at most 52 bits.
    tag: u64,
    /// The epoch it was made in; void in any other.
    epoch: u64,
    /// Where the frame's first byte is.
    pub(super) page: HostAddress,
    /// Whether a store may go through it.
    pub(super) writable: bool,
}

/// Direct-mapped; a flush voids everything at once by advancing the VM's epoch.
///
/// It is a real TLB in one more respect: until a flush, a translation stays writable although its page has been
/// write-protected. In that window a second caller of `KVM_RESET_DIRTY_RINGS`, who finds nothing to reset and copies
/// pages, loses a store.
#[derive(Debug)]
pub(super) struct Tlb {
    entries: Box<[Translation]>,
}

impl Tlb {
    pub(super) fn new() -> Self {
        let void = Translation { tag: u64::MAX, epoch: 0, page: HostAddress::new(0), writable: false };
        Self { entries: vec![void; ENTRIES].into_boxed_slice() }
    }

    #[inline]
    pub(super) fn find(&self, as_id: u16, gfn: u64, epoch: u64) -> Option<Translation> {
        let found = self.entries[Self::index(gfn)];
        (found.tag == Self::tag(as_id, gfn) && found.epoch == epoch).then_some(found)
    }

    pub(super) fn fill(&mut self, as_id: u16, gfn: u64, epoch: u64, page: HostAddress, writable: bool) {
        self.entries[Self::index(gfn)] = Translation { tag: Self::tag(as_id, gfn), epoch, page, writable };
    }

    #[inline]
    const fn tag(as_id: u16, gfn: u64) -> u64 {
        gfn | (as_id as u64) << 56
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below ENTRIES")]
    const fn index(gfn: u64) -> usize {
        (gfn % ENTRIES as u64) as usize
    }
}
