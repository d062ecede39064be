//! A vCPU with its reader's end of the ring.

use std::fmt;
use std::sync::Arc;

use ringmark_abi::Errno;
use ringmark_dirty::{Entry, RingMemory};

use crate::bench::Logged;
use crate::rig::{Rig, Slot};
use crate::target::{Exit, MapRequest, Mapping, Program, TestVcpu};
use crate::verdict::{Stop, Tried, equal};

/// `KVM_DIRTY_GFN_F_DIRTY`.
pub(crate) const DIRTY: u32 = 1;
/// `KVM_DIRTY_GFN_F_RESET`.
pub(crate) const RESET: u32 = 2;

/// A vCPU and the index its reader has reached. It goes before the rig's VM and memory.
pub(crate) struct Cpu {
    vcpu: Box<dyn TestVcpu>,
    ring: Option<Arc<dyn RingMemory>>,
    fetch: usize,
    rig: Rig,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("vcpu", &self.vcpu).field("fetch", &self.fetch).finish_non_exhaustive()
    }
}

impl Cpu {
    pub(crate) fn new(vcpu: Box<dyn TestVcpu>, rig: Rig) -> Self {
        Self { ring: vcpu.ring(), vcpu, fetch: 0, rig }
    }

    pub(crate) fn raw(&mut self) -> &mut dyn TestVcpu {
        &mut *self.vcpu
    }

    pub(crate) fn map(&self, request: &MapRequest) -> Tried<Box<dyn Mapping>> {
        self.vcpu.map(request)
    }

    /// `KVM_RUN`; what the kernel says.
    pub(crate) fn try_run(&mut self) -> Result<Result<Exit, Errno>, Stop> {
        if self.rig.watch().expired() {
            return Err(Stop::Broken("the case's time is over".into()));
        }
        let answer = self.vcpu.run();
        if self.rig.watch().expired() {
            return Err(Stop::Broken("the case's time is over".into()));
        }
        Ok(answer)
    }

    /// `KVM_RUN`, which must leave with an exit.
    pub(crate) fn run(&mut self) -> Result<Exit, Stop> {
        self.try_run()?.map_err(|errno| Stop::Broken(format!("KVM_RUN failed with {errno:?}")))
    }

    /// Gives the guest a program and runs it up to its first exit.
    pub(crate) fn start(&mut self, program: &Program) -> Result<Exit, Stop> {
        self.vcpu.load(program)?;
        self.run()
    }

    /// Starts to store a fresh value into each of `pages`; the value and the first exit.
    pub(crate) fn start_touch(
        &mut self,
        slot: &Slot,
        pages: impl IntoIterator<Item = u64>,
    ) -> Result<(u64, Exit), Stop> {
        let value = self.rig.fresh_value();
        let gpas = pages.into_iter().map(|page| slot.gpa(page)).collect();
        Ok((value, self.start(&Program::Store { gpas, value })?))
    }

    /// Stores a fresh value into each of `pages`, which must need no exit; the value.
    pub(crate) fn touch(&mut self, slot: &Slot, pages: impl IntoIterator<Item = u64>) -> Result<u64, Stop> {
        let (value, exit) = self.start_touch(slot, pages)?;
        equal("the guest's stores", exit, Exit::Done)?;
        Ok(value)
    }

    /// Loads from each of `pages`, which must need no exit.
    pub(crate) fn read(&mut self, slot: &Slot, pages: impl IntoIterator<Item = u64>) -> Result<(), Stop> {
        let gpas = pages.into_iter().map(|page| slot.gpa(page)).collect();
        let exit = self.start(&Program::Load { gpas })?;
        equal("the guest's loads", exit, Exit::Done)
    }

    /// Stores into each of `pages`, harvesting and resetting whenever the ring is full; everything harvested on the way
    /// and the number of full exits.
    pub(crate) fn touch_through(
        &mut self,
        slot: &Slot,
        pages: impl IntoIterator<Item = u64>,
    ) -> Result<(u64, Vec<Logged>, u64), Stop> {
        let (value, mut exit) = self.start_touch(slot, pages)?;
        let (mut harvested, mut full) = (Vec::new(), 0);
        while exit == Exit::DirtyRingFull {
            full += 1;
            let batch = self.harvest_all();
            equal("KVM_RESET_DIRTY_RINGS at a full ring", self.rig.reset()? as usize, batch.len())?;
            harvested.extend(batch);
            exit = self.run()?;
        }
        equal("the exit after the last store", exit, Exit::Done)?;
        Ok((value, harvested, full))
    }

    /// Entry `index` of the ring, counted without wrapping from the vCPU's creation.
    pub(crate) fn entry(&self, index: usize) -> Result<&Entry, Stop> {
        let entries = self.ring.as_ref().map_or(&[][..], |ring| ring.entries());
        index
            .checked_rem(entries.len())
            .and_then(|at| entries.get(at))
            .ok_or_else(|| Stop::Broken("the vCPU has no ring".into()))
    }

    /// Entries of the ring.
    pub(crate) fn ring_len(&self) -> usize {
        self.ring.as_ref().map_or(0, |ring| ring.entries().len())
    }

    /// The index up to which this reader has harvested.
    pub(crate) fn fetch(&self) -> usize {
        self.fetch
    }

    /// Flags of the first `n` entries from index `from`.
    pub(crate) fn flags(&self, from: usize, n: usize) -> Result<Vec<u32>, Stop> {
        (from..from + n).map(|index| Ok(self.entry(index)?.flags())).collect()
    }

    /// Entries that wait to be harvested, in order.
    pub(crate) fn pending(&self) -> Vec<Logged> {
        (self.fetch..self.fetch + self.ring_len())
            .map_while(|index| {
                self.entry(index).ok().filter(|entry| entry.flags() & (DIRTY | RESET) == DIRTY)
            })
            .map(Entry::payload)
            .collect()
    }

    /// Harvests up to `limit` entries and marks them for reset.
    pub(crate) fn harvest(&mut self, limit: usize) -> Vec<Logged> {
        self.harvest_with(limit, RESET)
    }

    /// Harvests all that is pending.
    pub(crate) fn harvest_all(&mut self) -> Vec<Logged> {
        self.harvest_with(usize::MAX, RESET)
    }

    /// Harvests with a flag word of the caller's.
    pub(crate) fn harvest_with(&mut self, limit: usize, flags: u32) -> Vec<Logged> {
        let mut taken = Vec::new();
        while taken.len() < limit.min(self.ring_len()) {
            let Ok(entry) = self.entry(self.fetch) else { break };
            if entry.flags() & (DIRTY | RESET) != DIRTY {
                break;
            }
            taken.push(entry.payload());
            entry.set_flags(flags);
            self.fetch += 1;
        }
        taken
    }

    /// Moves this reader on without harvesting: for cases that mark entries by hand.
    pub(crate) fn skip(&mut self, entries: usize) {
        self.fetch += entries;
    }
}
