//! Strict mode's calls: what was broken, and what was never reported.

use ringmark_dirty::{FLAG_DIRTY, FLAG_RESET, RingMemory, SlotId};

use super::{Vm, VmInner};
use crate::{
    strict::{Rule, Truth, Violation},
    sync::{lock, read},
    vcpu::VcpuShared,
};

/// An entry that was pushed and not reset.
struct Outstanding {
    slot: SlotId,
    offset: u64,
    flags: u32,
}

impl Vm {
    /// Switches strict mode: from here on violations are recorded, and every logged write is numbered.
    ///
    /// It costs sixteen bytes a page and slows stores down. Switch it on before the first slot logs; what happened
    /// before is not known.
    pub fn set_strict(&self, on: bool) {
        let _slots = lock(&self.inner.slots_lock);
        if on {
            for slot in self.inner.memslots().iter() {
                slot.truth.get_or_init(|| Truth::new(slot.npages()));
            }
            for vcpu in read(&self.inner.vcpus).iter() {
                self.inner.remember_pushes(vcpu);
            }
        }
        self.inner.strict.set(on);
    }

    /// Every violation since the VM was made or [`take_violations`](Self::take_violations), at most 65,536 of them.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.inner.strict.violations()
    }

    /// Takes the violations, leaving none.
    #[must_use]
    pub fn take_violations(&self) -> Vec<Violation> {
        self.inner.strict.take_violations()
    }

    /// Strict mode's word for "the state is now complete": vCPUs are stopped, devices have saved their tables, rings
    /// and bitmaps are collected, and the collected pages are about to be captured.
    ///
    /// Whatever a ring or bitmap still holds is a violation, each with its page. So is, when a vCPU next enters the
    /// guest, an entry that was harvested and not reset.
    pub fn declare_complete(&self) {
        let inner = &self.inner;
        if !inner.strict.is_on() {
            return;
        }
        let _slots = lock(&inner.slots_lock);
        for slot in inner.memslots().iter().filter(|slot| slot.bitmap.is_some()) {
            let uncollected = slot.truth.get().map(Truth::uncollected).unwrap_or_default();
            for offset in uncollected {
                inner.strict.record(Rule::CollectedTooEarly, slot.id(), offset);
            }
        }
        for vcpu in read(&inner.vcpus).iter() {
            for entry in
                outstanding(vcpu).iter().filter(|entry| entry.flags & (FLAG_DIRTY | FLAG_RESET) == FLAG_DIRTY)
            {
                inner.strict.record(Rule::NotHarvested, entry.slot, entry.offset);
            }
        }
        inner.strict.set_complete();
    }

    /// The pages that were written, by somebody who is logged, and neither reported since nor waiting to be: in no ring,
    /// page-modification log or bitmap. Each is a page that user space will never hear of.
    ///
    /// A page is reported when its ring entry is reset or its bit is collected (in manual mode: cleared), up to the end of
    /// the TLB flush that belongs to it. Exact while no vCPU runs. Empty unless [`set_strict`](Self::set_strict) is on.
    #[must_use]
    pub fn unreported(&self) -> Vec<(SlotId, u64)> {
        let inner = &self.inner;
        let _slots = lock(&inner.slots_lock);
        let memslots = inner.memslots();
        let mut waiting: Vec<(SlotId, u64)> = Vec::new();
        for vcpu in read(&inner.vcpus).iter() {
            waiting.extend(outstanding(vcpu).iter().map(|entry| (entry.slot, entry.offset)));
            let pml = lock(&vcpu.pml);
            let pages = pml.pages().iter().filter_map(|&(as_id, gfn)| memslots.find(as_id, gfn));
            waiting.extend(pages.map(|(slot, offset)| (slot.id(), offset)));
        }
        waiting.sort_unstable();
        let mut lost = Vec::new();
        for slot in memslots.iter().filter(|slot| slot.is_logging()) {
            let Some(truth) = slot.truth.get() else { continue };
            let in_bitmap =
                |offset| inner.uses_bitmaps() && slot.bitmap.as_ref().is_some_and(|bits| bits.test(offset));
            let pages = truth.unreported().map(|offset| (slot.id(), offset));
            lost.extend(pages.filter(|page| !in_bitmap(page.1) && waiting.binary_search(page).is_err()));
        }
        lost
    }
}

impl VmInner {
    /// A vCPU is about to run: after a declared state, no entry may be harvested and not reset.
    pub(crate) fn check_resume(&self) {
        if !self.strict.is_on() || !self.strict.take_complete() {
            return;
        }
        for vcpu in read(&self.vcpus).iter() {
            for entry in outstanding(vcpu).iter().filter(|entry| entry.flags & FLAG_RESET != 0) {
                self.strict.record(Rule::HarvestedNotReset, entry.slot, entry.offset);
            }
        }
    }
}

/// The entries between a ring's indices, as they were pushed.
fn outstanding(vcpu: &VcpuShared) -> Vec<Outstanding> {
    let Some(ring) = &vcpu.ring else { return Vec::new() };
    let (end, used) = (ring.dirty_index(), ring.used());
    // More than that is no number of entries: a reset of unused ones has shifted the indices.
    let used = if used > i32::MAX as u32 { 0 } else { used.min(ring.size()) };
    (1..=used)
        .rev()
        .map(|back| {
            let index = end.wrapping_sub(back);
            let entry = &ring.memory().entries()[index as usize & (ring.size() as usize - 1)];
            let payload = entry.payload();
            let payload = (SlotId::from_raw(payload.0), payload.1);
            let (slot, offset) = vcpu.shadow.get().map_or(payload, |shadow| shadow.get(index));
            Outstanding { slot, offset, flags: entry.flags() }
        })
        .collect()
}
