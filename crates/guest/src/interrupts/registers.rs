//! Registers of a GICv3 (Arm IHI 0069, chapter 12), as offsets in their frames, and what is written to them.

pub(super) const GICD_CTLR: u64 = 0x0;
/// Affinity routing, and interrupts of group 1, to which LPIs belong.
pub(super) const GICD_CTLR_ON: u32 = 1 << 4 | 1 << 1;

pub(super) const GICR_CTLR: u64 = 0x0;
pub(super) const GICR_CTLR_LPIS: u32 = 1;
pub(super) const GICR_TYPER: u64 = 0x8;
/// The processor's number is in bits 23 to 8.
pub(super) const GICR_TYPER_NUMBER_SHIFT: u32 = 8;
pub(super) const GICR_TYPER_NUMBER_MASK: u64 = 0xffff;
pub(super) const GICR_WAKER: u64 = 0x14;
pub(super) const GICR_PROPBASER: u64 = 0x70;
/// INTIDs have 16 bits; the table is shared and cached as all memory is.
pub(super) const GICR_PROPBASER_FLAGS: u64 = NORMAL | 15;
pub(super) const GICR_PENDBASER: u64 = 0x78;
/// The table is zero.
pub(super) const GICR_PENDBASER_FLAGS: u64 = 1 << 62 | NORMAL;

pub(super) const GITS_CTLR: u64 = 0x0;
pub(super) const GITS_CTLR_ON: u32 = 1;
pub(super) const GITS_CBASER: u64 = 0x80;
/// Valid, and 64 KiB, which are counted in 4 KiB less one.
pub(super) const GITS_CBASER_FLAGS: u64 = 1 << 63 | NORMAL_OF_ITS | 15;
pub(super) const GITS_CWRITER: u64 = 0x88;
pub(super) const GITS_CREADR: u64 = 0x90;
/// The first of eight.
pub(super) const GITS_BASER: u64 = 0x100;
pub(super) const GITS_BASERS: usize = 8;
/// What the table that a GITS_BASER is for holds, in bits 58 to 56.
pub(super) const GITS_BASER_TYPE_SHIFT: u32 = 56;
pub(super) const GITS_BASER_TYPE_MASK: u64 = 7;
pub(super) const GITS_BASER_DEVICES: u64 = 1;
pub(super) const GITS_BASER_COLLECTIONS: u64 = 4;
/// Valid, and one page of 64 KiB.
pub(super) const GITS_BASER_FLAGS: u64 = 1 << 63 | NORMAL_OF_ITS | 2 << 8;

/// Inner shareable, cached write-back: as a redistributor's bases have it.
const NORMAL: u64 = 1 << 10 | 7 << 7;
/// The same as an ITS's bases have it.
const NORMAL_OF_ITS: u64 = 7 << 59 | 1 << 10;
