//! The one lock of a VM's tracking, and what may be done only under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmark_abi::{Errno, Vm, mem};
use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{SlotId, SlotTable};

use crate::{Collected, Event, EventLog};

/// A VM, its slots, and the lock over harvest, reset, `GET`, `CLEAR` and every change of a slot's log.
///
/// # Why one lock
/// `kvm_vm_ioctl_reset_dirty_pages` flushes TLBs *after* it has dropped the kernel's own lock. A second caller can find
/// nothing to reset, return at once and copy a page that a vCPU still writes through a stale entry, unlogged. So
/// whoever resets, and whoever decides that pages may be read, does it under this lock, and reads them after it.
///
/// # Why nobody waits for ever
/// The lock is a leaf: its holder makes VM ioctls and touches its own memory, and never waits for a vCPU, a channel or
/// another lock. In the kernel those ioctls wait for vCPUs only where that ends without us: a TLB flush kicks a vCPU
/// out of guest mode, a memslot change waits until vCPUs inside `KVM_RUN` have left their read sections, and a vCPU
/// that is in user space holds up neither. A vCPU whose ring is full waits in user space for the collector, which
/// takes only this lock; a thread that stops the vCPUs waits for the vCPU, and holds no lock meanwhile.
#[derive(Debug)]
pub(crate) struct Reaper {
    vm: Arc<dyn Vm>,
    slots: Arc<SlotTable>,
    events: EventLog,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    logging: bool,
    /// Slots that hold, or may hold, writable pages that no log knows of.
    unprotected: Vec<SlotId>,
    /// A buffer for dirty logs, so that a harvest allocates once.
    words: Vec<u64>,
}

impl Reaper {
    pub(crate) fn new(vm: Arc<dyn Vm>, slots: SlotTable) -> Self {
        Self { vm, slots: Arc::new(slots), events: EventLog::default(), state: Mutex::default() }
    }

    pub(crate) fn slots(&self) -> &Arc<SlotTable> {
        &self.slots
    }

    pub(crate) const fn events(&self) -> &EventLog {
        &self.events
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        // Every statement under the lock leaves the state whole: a page is recorded before it is given up.
        Locked { reaper: self, state: self.state.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The lock, held.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    reaper: &'a Reaper,
    state: MutexGuard<'a, State>,
}

impl Locked<'_> {
    pub(crate) fn is_logging(&self) -> bool {
        self.state.logging
    }

    /// Switches the log of every slot on. Every page is write-protected when it returns.
    pub(crate) fn start_logging(&mut self) -> Result<(), (SlotId, Errno)> {
        if self.state.logging && !mutant::active(Mutant::BaseKeepsOldLog) {
            // A flag that is set already is no change to KVM, which then protects nothing (`kvm_set_memory_region`).
            self.stop_logging()?;
        }
        for (done, slot) in self.reaper.slots.iter().enumerate() {
            if let Err(errno) = self.reaper.vm.set_memslot_flags(slot.id, mem::LOG_DIRTY_PAGES) {
                for undo in self.reaper.slots.iter().take(done) {
                    let _ = self.reaper.vm.set_memslot_flags(undo.id, 0);
                }
                return Err((slot.id, errno));
            }
        }
        self.state.logging = true;
        self.state.unprotected.clear();
        Ok(())
    }

    /// Switches the log of every slot off, all of them whatever fails; the first failure is returned.
    pub(crate) fn stop_logging(&mut self) -> Result<(), (SlotId, Errno)> {
        self.state.logging = false;
        self.state.unprotected.clear();
        let mut result = Ok(());
        for slot in self.reaper.slots.iter() {
            if let Err(errno) = self.reaper.vm.set_memslot_flags(slot.id, 0) {
                result = result.and(Err((slot.id, errno)));
            }
        }
        result
    }

    /// Returns harvested entries to the kernel, which re-protects their pages.
    pub(crate) fn reset(&mut self) -> Result<u32, Errno> {
        self.reaper.vm.reset_dirty_rings()
    }

    /// Protects every page of `slot` again by switching its log off and on.
    ///
    /// Between the two the guest writes unlogged, and a backup bitmap dies with the log: so every page of the slot is
    /// reported, and since the report is read after this returns, it is read protected.
    pub(crate) fn reprotect(&mut self, slot: SlotId, into: &mut Collected) {
        if !self.state.logging {
            return;
        }
        if !mutant::active(Mutant::LogDroppedWithItsBits) {
            into.suspect(slot);
        }
        let vm = &self.reaper.vm;
        if mutant::active(Mutant::SuspectsStayWritable) {
            return;
        }
        let toggled =
            vm.set_memslot_flags(slot, 0).and_then(|()| vm.set_memslot_flags(slot, mem::LOG_DIRTY_PAGES));
        match toggled {
            Ok(()) => self.state.unprotected.retain(|&known| known != slot),
            Err(errno) => {
                if !self.state.unprotected.contains(&slot) {
                    self.state.unprotected.push(slot);
                }
                self.reaper.events.push(Event::NotReprotected { slot, errno });
            }
        }
    }

    /// [`reprotect`](Self::reprotect)s every slot.
    pub(crate) fn reprotect_all(&mut self, into: &mut Collected) {
        for slot in self.reaper.slots.iter() {
            self.reprotect(slot.id, into);
        }
    }

    /// Tries again what failed before; until it succeeds every page of the slot is reported each time.
    pub(crate) fn retry_reprotect(&mut self, into: &mut Collected) {
        for slot in self.state.unprotected.clone() {
            self.reprotect(slot, into);
        }
    }

    /// Reads the dirty log of every slot, and with `clear` (manual protect) clears and re-protects exactly what it
    /// read.
    pub(crate) fn get_dirty_logs(&mut self, into: &mut Collected, clear: bool) {
        if !self.state.logging {
            return;
        }
        let Self { reaper, state } = self;
        for slot in reaper.slots.iter() {
            let Ok(length) = usize::try_from(slot.bitmap_words()) else {
                into.suspect(slot.id);
                continue;
            };
            state.words.clear();
            state.words.resize(length, 0);
            if let Err(errno) = reaper.vm.get_dirty_log(slot.id, &mut state.words) {
                // kvm_get_dirty_log_protect clears and protects before it copies to user space.
                reaper.events.push(Event::DirtyLogFailed { slot: slot.id, errno });
                if !mutant::active(Mutant::FailedLogTakenForClean) {
                    into.suspect(slot.id);
                }
                continue;
            }
            if state.words.iter().all(|&word| word == 0) {
                continue;
            }
            let last = usize::from(mutant::active(Mutant::LastWordCut) && length > 1);
            if into.insert_words(slot.id, &state.words[..length - last]).is_err() {
                into.suspect_all();
            }
            if !clear {
                continue;
            }
            if mutant::active(Mutant::ClearMoreThanRead) {
                state.words.fill(u64::MAX);
            }
            // A memslot has at most 2^31 - 1 pages (KVM_MEM_MAX_NR_PAGES), and the table has checked it.
            let npages = u32::try_from(slot.npages).unwrap_or(u32::MAX);
            if let Err(errno) = reaper.vm.clear_dirty_log(slot.id, 0, npages, &state.words) {
                reaper.events.push(Event::ClearFailed { slot: slot.id, errno });
            }
        }
    }
}
