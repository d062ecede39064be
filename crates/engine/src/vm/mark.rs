//! Where a write is logged (`mark_page_dirty_in_slot`).

use std::ptr;

use ringmark_abi::Errno;
use ringmark_dirty::SlotId;
use ringmark_dirty::mutant::{self, Mutant};

use super::{Vm, VmInner};
use crate::{
    memslots::Slot,
    profile::Arch,
    strict::Rule,
    vcpu::{VcpuShared, current},
};

/// Who writes guest memory on KVM's own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The VGIC or an ITS, saving a table or clearing a pending bit (`vgic_write_guest_lock`): the one writer that
    /// arm64 expects without a running vCPU. It says nothing about *where* the write is logged.
    VgicTable,
    /// Anything else.
    Other,
}

/// Where a mark went; the later the variant, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Marked {
    /// To the ring of the vCPU of this id.
    Ring(u32),
    /// To the slot's bitmap.
    Bitmap,
    /// Nowhere: the slot is not logging.
    NotLogging,
    /// Nowhere: the thread has a vCPU of another VM loaded.
    OtherVm,
    /// Nowhere: ring-only mode and no running vCPU. The page is lost unless somebody else reports it.
    Dropped,
}

impl Vm {
    /// `mark_page_dirty_in_slot`: logs that page `offset` of `slot` was written, *after* the write.
    ///
    /// The vCPU that this thread has loaded gets an entry in its ring; without one the slot's bitmap gets a bit; with
    /// neither the mark is [`Dropped`](Marked::Dropped). It looks at neither the page's state nor room in the ring.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot or page.
    pub fn mark_page_dirty(&self, slot: SlotId, offset: u64, writer: Writer) -> Result<Marked, Errno> {
        let memslots = self.inner.memslots();
        let slot = memslots.get(slot).filter(|slot| offset < slot.npages()).ok_or(Errno::ENOENT)?;
        self.inner.note_write(slot, offset);
        Ok(self.inner.mark_page_dirty(slot, offset, writer))
    }
}

impl VmInner {
    /// The decision tree, in the kernel's order.
    pub(crate) fn mark_page_dirty(&self, slot: &Slot, offset: u64, writer: Writer) -> Marked {
        let vcpu = current();
        match &vcpu {
            Some(vcpu) if !ptr::eq(vcpu.vm.as_ptr(), self) => {
                self.stats.marks_of_other_vm.add(1);
                return Marked::OtherVm;
            }
            None if !self.allows_write_without_running_vcpu(writer) => self.stats.marks_without_vcpu.add(1),
            _ => {}
        }
        if !slot.is_logging() {
            return Marked::NotLogging;
        }
        self.log(vcpu.as_deref(), slot, offset)
    }

    /// `kvm_arch_allow_write_without_running_vcpu`: keeps the warning quiet, and nothing else.
    fn allows_write_without_running_vcpu(&self, writer: Writer) -> bool {
        self.profile.arch == Arch::Arm64 && writer == Writer::VgicTable
    }

    /// The second half of the tree: ring, else bitmap, else nothing. The slot is logging and `vcpu` is this VM's.
    pub(crate) fn log(&self, vcpu: Option<&VcpuShared>, slot: &Slot, offset: u64) -> Marked {
        if let Some(vcpu) = vcpu
            && let Some(ring) = &vcpu.ring
        {
            if mutant::active(Mutant::FullRingDropsEntry) && ring.is_soft_full() {
                return Marked::Dropped;
            }
            let index = ring.dirty_index();
            let overwritten = vcpu.shadow.get().map(|shadow| {
                let before = shadow.get(index);
                shadow.set(index, slot.id(), offset);
                before
            });
            let pushed = ring.push(slot.id(), offset);
            self.stats.pushes.add(1);
            if pushed.overwrote {
                self.stats.hard_full_events.add(1);
                if let Some((slot, offset)) = overwritten.filter(|_| self.strict.is_on()) {
                    self.strict.record(Rule::HardFull, slot, offset);
                }
            }
            if !self.faults.take_unchecked_push() && pushed.soft_full {
                vcpu.requests.soft_full();
            }
            return Marked::Ring(vcpu.id);
        }
        if let Some(bitmap) = &slot.bitmap {
            bitmap.set(offset);
            if let Some(truth) = slot.truth.get() {
                truth.mark(offset);
            }
            return Marked::Bitmap;
        }
        self.stats.dropped_marks.add(1);
        if self.strict.is_on() {
            self.strict.record(Rule::Dropped, slot.id(), offset);
        }
        Marked::Dropped
    }

    /// Strict mode: page `offset` of `slot` is about to be written by somebody who is logged.
    pub(crate) fn note_write(&self, slot: &Slot, offset: u64) {
        if self.strict.is_on()
            && slot.is_logging()
            && let Some(truth) = slot.truth.get()
        {
            truth.write(offset, self.strict.next_write());
        }
    }
}
