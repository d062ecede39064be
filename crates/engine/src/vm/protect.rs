//! Taking the right to write away again.

use std::ops::Range;

use ringmark_dirty::AtomicBitmap;

use super::{Vm, VmInner};
use crate::memslots::Slot;

impl VmInner {
    /// `kvm_arch_mmu_enable_log_dirty_pt_masked`: re-protects the pages of `mask`, bit 0 being page `base`, all of which
    /// are in the slot. The caller flushes TLBs afterwards.
    pub(super) fn protect_masked(&self, slot: &Slot, base: u64, mask: u64) {
        if mask == 0 {
            return;
        }
        let (lowest, highest) = (u64::from(mask.trailing_zeros()), u64::from(mask.ilog2()));
        if self.has_blocks(slot) {
            for page in (lowest..=highest).filter(|&bit| self.profile.range_protect || mask >> bit & 1 != 0) {
                let page = base + page;
                clear_range(&slot.writable, self.block(slot, page).unwrap_or(page..page + 1));
            }
        } else if self.profile.range_protect {
            clear_range(&slot.writable, base + lowest..base + highest + 1);
        } else {
            clear_mask(&slot.writable, base, mask);
        }
    }

    /// The huge block that one fault on page `offset` maps for writing, where there is one: arm64 maps blocks for as long
    /// as it takes the slot for not logging, and it goes by the bitmap (`memslot_is_logging`).
    pub(crate) fn block(&self, slot: &Slot, offset: u64) -> Option<Range<u64>> {
        if !self.has_blocks(slot) {
            return None;
        }
        let first_gfn = (slot.window.base.0 + offset) & !(self.profile.huge_block_pages - 1);
        let start = first_gfn.checked_sub(slot.window.base.0)?;
        let end = start + self.profile.huge_block_pages;
        (end <= slot.npages()).then_some(start..end)
    }

    fn has_blocks(&self, slot: &Slot) -> bool {
        self.profile.log_needs_bitmap && self.profile.huge_block_pages > 1 && slot.bitmap.is_none()
    }
}

impl Vm {
    /// An event of the host's memory (swapping, merging, migration): unmaps pages `first .. first + pages` of `slot`, as
    /// far as they exist, so that the next store to each faults and, in a logging slot, is logged again.
    pub fn unmap(&self, slot: ringmark_dirty::SlotId, first: u64, pages: u64) {
        let memslots = self.inner.memslots();
        let Some(slot) = memslots.get(slot) else { return };
        let range = first.min(slot.npages())..first.saturating_add(pages).min(slot.npages());
        clear_range(&slot.writable, range.clone());
        if let Some(present) = &slot.present {
            clear_range(present, range);
        }
        self.inner.flush_remote_tlbs();
    }
}

/// Clears the bits of `mask`, bit 0 being bit `base` of the bitmap.
fn clear_mask(bitmap: &AtomicBitmap, base: u64, mask: u64) {
    let (word, shift) = (word_of(base), base % 64);
    if mask << shift != 0 {
        bitmap.clear_bits(word, mask << shift);
    }
    if shift != 0 && mask >> (64 - shift) != 0 {
        bitmap.clear_bits(word + 1, mask >> (64 - shift));
    }
}

fn clear_range(bitmap: &AtomicBitmap, range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min((at / 64 + 1) * 64);
        bitmap.clear_bits(word_of(at), u64::MAX >> (64 - (end - at)) << (at % 64));
        at = end;
    }
}

#[allow(clippy::cast_possible_truncation, reason = "below the number of words, a usize")]
const fn word_of(bit: u64) -> usize {
    (bit / 64) as usize
}
