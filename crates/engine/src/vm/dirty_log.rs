//! `KVM_GET_DIRTY_LOG` and `KVM_CLEAR_DIRTY_LOG`.

use std::sync::{Arc, atomic::Ordering};

use ringmark_abi::{Errno, manual};
use ringmark_dirty::{AtomicBitmap, SlotId};

use super::VmInner;
use crate::{
    memslots::Slot,
    sync::{lock, read},
};

impl VmInner {
    /// `kvm_get_dirty_log_protect`, into a buffer that takes it for certain.
    pub(super) fn get_dirty_log(&self, id: SlotId, out: &mut [u64]) -> Result<(), Errno> {
        let _slots = lock(&self.slots_lock);
        let (slot, bitmap) = self.logging_slot(id)?;
        let out = out.get_mut(..bitmap.words()).ok_or(Errno::EINVAL)?;
        self.collect(&slot, &bitmap, out);
        self.note_collected(&slot, out);
        Ok(())
    }

    /// `kvm_get_dirty_log_protect`; the copy to user space comes last and may fail.
    pub(super) fn get_dirty_log_with(
        &self,
        id: SlotId,
        copy_out: impl FnOnce(&[u64]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let _slots = lock(&self.slots_lock);
        let (slot, bitmap) = self.logging_slot(id)?;
        let mut out = vec![0; bitmap.words()];
        self.collect(&slot, &bitmap, &mut out);
        copy_out(&out)?;
        self.note_collected(&slot, &out);
        Ok(())
    }

    /// The checks both calls begin with: the mode, before anything is looked up; the slot's name; the slot.
    fn logging_slot(&self, id: SlotId) -> Result<(Arc<Slot>, Arc<AtomicBitmap>), Errno> {
        self.check_log_id(id)?;
        self.slot_with_bitmap(id)
    }

    fn check_log_id(&self, id: SlotId) -> Result<(), Errno> {
        if !self.uses_bitmaps() {
            return Err(Errno::ENXIO);
        }
        let known = u32::from(id.as_id()) < self.profile.address_spaces
            && u32::from(id.id()) < self.profile.user_slots;
        if known { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn slot_with_bitmap(&self, id: SlotId) -> Result<(Arc<Slot>, Arc<AtomicBitmap>), Errno> {
        let memslots = self.memslots();
        let slot = memslots.get(id).ok_or(Errno::ENOENT)?;
        let bitmap = slot.bitmap.as_ref().ok_or(Errno::ENOENT)?;
        Ok((Arc::clone(slot), Arc::clone(bitmap)))
    }

    /// `kvm_arch_sync_dirty_log`: asks every vCPU to leave guest mode, and does not wait for it.
    fn sync_dirty_log(&self) {
        if self.profile.pml != 0 {
            for vcpu in read(&self.vcpus).iter() {
                vcpu.requests.leave_guest();
            }
        }
    }

    /// Fills `out` with the bitmap. In automatic mode bits are taken, their pages re-protected and TLBs flushed: a bit
    /// that a vCPU sets behind the exchange stays for the next collection.
    fn collect(&self, slot: &Slot, bitmap: &AtomicBitmap, out: &mut [u64]) {
        self.sync_dirty_log();
        let manual = self.manual.load(Ordering::Relaxed) & manual::PROTECT_ENABLE != 0;
        let mut any = false;
        for (word, (out, base)) in out.iter_mut().zip((0..).step_by(64)).enumerate() {
            *out = bitmap.load_word(word);
            if *out != 0 && !manual {
                *out = bitmap.swap_word(word, 0);
                self.protect_masked(slot, base, *out);
                any = true;
            }
        }
        if any {
            self.flush_remote_tlbs();
        }
    }

    /// Strict mode: user space has the slot's bits. In manual mode they are its own only once cleared.
    fn note_collected(&self, slot: &Slot, words: &[u64]) {
        let Some(truth) = slot.truth.get().filter(|_| self.strict.is_on()) else { return };
        truth.collect();
        if self.manual.load(Ordering::Relaxed) & manual::PROTECT_ENABLE == 0 {
            let now = self.strict.now();
            bits(words).for_each(|offset| truth.report(offset, now));
        }
    }

    /// `kvm_clear_dirty_log_protect`.
    pub(super) fn clear_dirty_log(
        &self,
        id: SlotId,
        first: u64,
        num: u32,
        copy_in: impl FnOnce(&mut [u64]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let _slots = lock(&self.slots_lock);
        self.check_log_id(id)?;
        if !first.is_multiple_of(64) {
            return Err(Errno::EINVAL);
        }
        let (slot, bitmap) = self.slot_with_bitmap(id)?;
        let rest = slot.npages().checked_sub(first).ok_or(Errno::EINVAL)?;
        let num = u64::from(num);
        if num > rest || (num < rest && !num.is_multiple_of(64)) {
            return Err(Errno::EINVAL);
        }
        self.sync_dirty_log();
        let words = usize::try_from(num.div_ceil(64)).map_err(|_| Errno::ENOMEM)?;
        let mut masks = vec![0; words];
        if words != 0 {
            copy_in(&mut masks)?;
        }
        let start = usize::try_from(first / 64).map_err(|_| Errno::EINVAL)?;
        let mut any = false;
        for (mask, (word, base)) in masks.iter_mut().zip((start..).zip((first..).step_by(64))) {
            if *mask != 0 {
                *mask = bitmap.clear_bits(word, *mask);
                self.protect_masked(&slot, base, *mask);
                any |= *mask != 0;
            }
        }
        if any {
            self.flush_remote_tlbs();
        }
        if let Some(truth) = slot.truth.get().filter(|_| self.strict.is_on()) {
            let now = self.strict.now();
            bits(&masks).for_each(|offset| truth.report(first + offset, now));
        }
        Ok(())
    }
}

/// The numbers of the bits set in `words`.
fn bits(words: &[u64]) -> impl Iterator<Item = u64> {
    words
        .iter()
        .zip((0..).step_by(64))
        .flat_map(|(&word, base)| (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| base + bit))
}
