//! `KVM_RESET_DIRTY_RINGS`.

use std::sync::Arc;

use ringmark_abi::Errno;
use ringmark_dirty::SlotId;
use ringmark_dirty::mutant::{self, Mutant};

use super::VmInner;
use crate::{
    memslots::Memslots,
    strict::Rule,
    sync::{lock, read},
    vcpu::VcpuShared,
};

/// The kernel counts entries in an `int`.
const MOST_ENTRIES: u32 = i32::MAX as u32;

/// Consecutive entries that are re-protected as one.
#[derive(Debug)]
struct Batch {
    slot: u32,
    base: u64,
    /// Bit 0 is page `base`.
    mask: u64,
}

impl Batch {
    const fn new(slot: u32, offset: u64) -> Self {
        Self { slot, base: offset, mask: 1 }
    }

    /// Takes another entry in, if it is of the same slot and near enough.
    fn add(&mut self, slot: u32, offset: u64) -> bool {
        if slot != self.slot {
            return false;
        }
        let (ahead, behind) = (offset.wrapping_sub(self.base), self.base.wrapping_sub(offset));
        if ahead < 64 {
            self.mask |= 1 << ahead;
            return true;
        }
        // A step back moves the base, unless the mask's highest page would then be out of reach.
        if behind < 64 && self.mask << behind >> behind == self.mask {
            self.base = offset;
            self.mask = self.mask << behind | 1;
            return true;
        }
        false
    }
}

/// One call's walk over the rings.
struct Reset<'a> {
    vm: &'a VmInner,
    memslots: Arc<Memslots>,
    cleared: u32,
    /// Entries after which a signal comes.
    signal_after: Option<u64>,
    /// Strict mode: the pages whose entries were reset, as they were pushed.
    reported: Vec<(SlotId, u64)>,
}

/// An entry of the present batch, in strict mode: as it was pushed, and whether user space has changed it since.
type Taken = (SlotId, u64, bool);

impl VmInner {
    /// `kvm_vm_ioctl_reset_dirty_pages`: how many entries were given back, over all rings.
    ///
    /// TLBs are flushed after `slots_lock` is dropped. Until then a vCPU may still store through a translation whose page
    /// is already protected, and another caller may find nothing to reset and return: who copies pages then loses stores.
    pub(super) fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        if !self.has_rings() {
            return Err(Errno::EINVAL);
        }
        let signal = self.faults.take_reset_signal().filter(|_| self.profile.reset_stops_on_signal);
        let reset = {
            let _slots = lock(&self.slots_lock);
            let memslots = self.memslots();
            let mut reset =
                Reset { vm: self, memslots, cleared: 0, signal_after: signal, reported: Vec::new() };
            let vcpus = read(&self.vcpus).clone();
            for vcpu in &vcpus {
                if !reset.ring(vcpu) {
                    break;
                }
            }
            reset
        };
        if reset.cleared != 0 && !mutant::active(Mutant::ResetWithoutFlush) {
            self.faults.run_before_flush();
            self.flush_remote_tlbs();
        }
        let now = self.strict.now();
        for (slot, offset) in reset.reported {
            if let Some(truth) = reset.memslots.get(slot).and_then(|slot| slot.truth.get()) {
                truth.report(offset, now);
            }
        }
        Ok(reset.cleared)
    }
}

impl Reset<'_> {
    /// `kvm_dirty_ring_reset`; false if a signal stopped it.
    fn ring(&mut self, vcpu: &VcpuShared) -> bool {
        let Some(ring) = &vcpu.ring else { return true };
        let mut batch: Option<Batch> = None;
        let mut taken: Vec<Taken> = Vec::new();
        while self.cleared < MOST_ENTRIES {
            if self.signal_after.is_some_and(|after| u64::from(self.cleared) >= after) {
                // What the batch holds is counted and empty, and stays writable: the kernel's own loss.
                self.never_reprotected(&taken);
                return false;
            }
            let (index, used) = (ring.reset_index(), ring.used());
            let Some((slot, offset)) = ring.reset_next() else { break };
            self.cleared += 1;
            if !batch.as_mut().is_some_and(|batch| batch.add(slot, offset))
                && let Some(full) = batch.replace(Batch::new(slot, offset))
            {
                self.protect(&full, &taken);
                taken.clear();
            }
            if self.vm.strict.is_on() {
                self.note(vcpu, index, used, (slot, offset), &mut taken);
            }
        }
        if let Some(last) = batch {
            self.protect(&last, &taken);
        }
        true
    }

    /// `kvm_reset_dirty_gfn`: a batch that names anything but pages of a slot is skipped as a whole.
    fn protect(&self, batch: &Batch, taken: &[Taken]) {
        let slot = self.memslots.get(SlotId::from_raw(batch.slot));
        let highest = batch.base.checked_add(u64::from(batch.mask.ilog2()));
        match slot.zip(highest).filter(|(slot, highest)| *highest < slot.npages()) {
            Some((slot, _)) => {
                self.vm.protect_masked(slot, batch.base, batch.mask);
                let changed: Vec<Taken> = taken.iter().copied().filter(|(.., changed)| *changed).collect();
                self.never_reprotected(&changed);
            }
            None => {
                self.vm.stats.invalid_resets.add(u64::from(batch.mask.count_ones()));
                self.never_reprotected(taken);
            }
        }
    }

    /// Strict mode: remembers what the entry was about when it was pushed.
    fn note(
        &mut self,
        vcpu: &VcpuShared,
        index: u32,
        used: u32,
        payload: (u32, u64),
        taken: &mut Vec<Taken>,
    ) {
        let payload = (SlotId::from_raw(payload.0), payload.1);
        if used == 0 || used > i32::MAX as u32 {
            self.vm.strict.record(Rule::ResetOfUnused, payload.0, payload.1);
            return;
        }
        let pushed = vcpu.shadow.get().map_or(payload, |shadow| shadow.get(index));
        taken.push((pushed.0, pushed.1, pushed != payload));
        self.reported.push(pushed);
    }

    /// Names the pages of `taken` that a slot still logs: they stay writable with no entry to show for it.
    fn never_reprotected(&self, taken: &[Taken]) {
        for &(id, offset, _) in taken {
            let slot = self.memslots.get(id);
            if slot.is_some_and(|slot| slot.is_logging() && offset < slot.npages()) {
                self.vm.strict.record(Rule::NeverReprotected, id, offset);
            }
        }
    }
}
