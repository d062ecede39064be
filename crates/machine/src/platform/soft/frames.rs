//! Where the interrupt controller's frames lie: in the hole below 4 GiB.

use crate::layout::GAP_START;

pub(crate) const DISTRIBUTOR: u64 = GAP_START;
pub(crate) const REDISTRIBUTORS: u64 = GAP_START + 0x100_0000;
pub(crate) const TRANSLATORS: u64 = GAP_START + 0x200_0000;

/// The frames of the translation service with this index.
pub(super) const fn translator(index: u32) -> u64 {
    TRANSLATORS + index as u64 * crate::layout::board::FRAMES
}
