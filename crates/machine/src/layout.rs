//! Where guest memory lies.

pub mod board;

use ringmark_dirty::{Memslot, PageSize, SlotId};

/// First byte of the hole below 4 GiB that PCs keep for devices.
pub const GAP_START: u64 = 3 << 30;
/// First byte after that hole.
pub const GAP_END: u64 = 4 << 30;
/// First byte of memory on arm64 boards: below it lie the devices.
pub const BOARD_START: u64 = 1 << 30;

/// How the guest-physical addresses of a machine are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressMap {
    /// Memory from 0 on, around the hole below 4 GiB: x86-64, and every machine on the engine.
    Pc,
    /// Memory from 1 GiB on, in one piece: arm64, as on the emulators' `virt` boards.
    Board,
}

/// Guest memory as memslots, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamLayout {
    page_size: PageSize,
    slots: Vec<Memslot>,
}

/// Why a memory size or a stored layout is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Smaller than any guest can use.
    #[error("{0} bytes of memory are too few: a machine has at least {min} bytes", min = RamLayout::MIN_BYTES)]
    TooSmall(u64),
    /// Larger than a memslot allows.
    #[error("{0} bytes of memory are too many: one memslot holds at most 2147483647 pages")]
    TooLarge(u64),
    /// Not a whole number of pages.
    #[error(
        "{bytes} bytes of memory are not a whole number of pages of {page_size}; round to a multiple of it"
    )]
    Unaligned {
        /// The size asked for.
        bytes: u64,
        /// The page size of this host.
        page_size: PageSize,
    },
}

impl RamLayout {
    /// The least memory of a machine in bytes: the first MiB belongs to the boot protocol.
    pub const MIN_BYTES: u64 = 2 << 20;

    /// `bytes` of memory where `map` has it.
    ///
    /// # Errors
    /// Where `bytes` is too small, too large, or no multiple of the page size.
    pub fn new(map: AddressMap, bytes: u64, page_size: PageSize) -> Result<Self, LayoutError> {
        if bytes < Self::MIN_BYTES {
            return Err(LayoutError::TooSmall(bytes));
        }
        if !page_size.is_aligned(bytes) {
            return Err(LayoutError::Unaligned { bytes, page_size });
        }
        let slot = |number, start, bytes| Memslot {
            id: SlotId::new(0, number),
            base: page_size.gfn(start),
            npages: page_size.pages_in(bytes),
        };
        let slots = match map {
            AddressMap::Pc if bytes > GAP_START => {
                vec![slot(0, 0, GAP_START), slot(1, GAP_END, bytes - GAP_START)]
            }
            AddressMap::Pc => vec![slot(0, 0, bytes)],
            AddressMap::Board => vec![slot(0, BOARD_START, bytes)],
        };
        if slots.iter().any(|s| s.npages > Memslot::MAX_PAGES) {
            return Err(LayoutError::TooLarge(bytes));
        }
        Ok(Self { page_size, slots })
    }

    /// The granule of the layout: the host's page.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The memslots, lowest first.
    #[must_use]
    pub fn slots(&self) -> &[Memslot] {
        &self.slots
    }

    /// Bytes of memory without the hole.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|s| s.npages << self.page_size.shift()).sum()
    }

    /// Guest-physical start and length in bytes of each slot.
    pub fn ranges(&self) -> impl Iterator<Item = (SlotId, u64, u64)> + '_ {
        let shift = self.page_size.shift();
        self.slots.iter().map(move |s| (s.id, s.base.0 << shift, s.npages << shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages_of(size: u64) -> PageSize {
        PageSize::new(size).unwrap()
    }

    #[test]
    fn memory_up_to_the_hole_is_one_slot() {
        let layout = RamLayout::new(AddressMap::Pc, 1 << 30, pages_of(4096)).unwrap();
        assert_eq!(layout.ranges().collect::<Vec<_>>(), [(SlotId::new(0, 0), 0, 1 << 30)]);
    }

    #[test]
    fn memory_beyond_the_hole_goes_on_at_four_gibibytes() {
        let layout = RamLayout::new(AddressMap::Pc, 4 << 30, pages_of(65536)).unwrap();
        let expected = [(SlotId::new(0, 0), 0, 3 << 30), (SlotId::new(0, 1), 4 << 30, 1 << 30)];
        assert_eq!(layout.ranges().collect::<Vec<_>>(), expected);
        assert_eq!(layout.bytes(), 4 << 30);
    }

    #[test]
    fn a_board_has_one_slot_however_large() {
        let layout = RamLayout::new(AddressMap::Board, 8 << 30, pages_of(4096)).unwrap();
        assert_eq!(layout.ranges().collect::<Vec<_>>(), [(SlotId::new(0, 0), 1 << 30, 8 << 30)]);
    }

    #[test]
    fn odd_sizes_are_refused() {
        let page = pages_of(16384);
        assert_eq!(RamLayout::new(AddressMap::Pc, 4096, page), Err(LayoutError::TooSmall(4096)));
        let bytes = (8 << 20) + 4096;
        assert_eq!(
            RamLayout::new(AddressMap::Board, bytes, page),
            Err(LayoutError::Unaligned { bytes, page_size: page })
        );
        assert!(matches!(RamLayout::new(AddressMap::Board, 1 << 60, page), Err(LayoutError::TooLarge(_))));
    }
}
