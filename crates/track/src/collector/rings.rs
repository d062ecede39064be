//! Harvest and reset, and what is done when they do not agree.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{RingMemory, SlotId};

use super::ring::{Cursors, Ring};
use super::{CollectError, Drained, Stats};
use crate::reaper::{Locked, Reaper};
use crate::throttle::{Brake, Brakes};
use crate::{Collected, Event};

/// Ring-full exits in a row that found nothing before the ring counts as lost. One is usual: the periodic harvest was
/// faster.
const EMPTY_EXITS: u32 = 1000;

/// The largest ring in which gaps are looked for without a sign of them.
const SMALL: u32 = 4096;

/// How often the rings of vCPUs that are held to a rate are looked at.
const WATCH: Duration = Duration::from_millis(4);

/// Every ring of a VM, owned by the collector's thread.
pub(super) struct Rings {
    reaper: Arc<Reaper>,
    stats: Arc<Stats>,
    brakes: Arc<Brakes>,
    rings: Vec<Ring>,
    /// Pages taken and reset that no harvest has fetched yet.
    collected: Collected,
    /// Entries handed back, read or empty, that no reset has returned yet; not 0 only after a reset that failed.
    owed: u32,
    /// The slots of those entries.
    owed_slots: Vec<SlotId>,
}

/// Whether the vCPUs of the rings that are drained may push meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Vcpu {
    Runs,
    StandsStill,
}

impl Vcpu {
    /// How often one drain returns to a ring that was overrun. One whose vCPU runs may be overrun each time, and the
    /// rest is left to the next drain; one that stands still is empty after a few.
    const fn passes(self) -> u32 {
        match self {
            Self::Runs => 4,
            Self::StandsStill => 64,
        }
    }
}

impl Rings {
    pub(super) fn new(reaper: Arc<Reaper>, stats: Arc<Stats>, brakes: Arc<Brakes>) -> Self {
        let collected = Collected::new(reaper.slots());
        Self { reaper, stats, brakes, rings: Vec::new(), collected, owed: 0, owed_slots: Vec::new() }
    }

    pub(super) fn add(&mut self, vcpu: u32, memory: Arc<dyn RingMemory>) -> Result<Arc<Brake>, CollectError> {
        if self.rings.iter().any(|ring| ring.vcpu == vcpu) {
            return Err(CollectError::DuplicateRing { vcpu });
        }
        let brake = Arc::new(Brake::new(vcpu));
        self.rings.push(Ring::new(vcpu, memory, Arc::clone(&brake))?);
        self.brakes.add(Arc::clone(&brake));
        Ok(brake)
    }

    /// The vCPU waits for the answer, so its ring stands still.
    pub(super) fn ring_full(&mut self, vcpu: u32) -> Result<Drained, CollectError> {
        let at =
            self.rings.iter().position(|ring| ring.vcpu == vcpu).ok_or(CollectError::UnknownRing { vcpu })?;
        Stats::add(&self.stats.ring_full, 1);
        let entries = self.drain(&[at], Vcpu::StandsStill)?;
        self.watch();
        if mutant::active(Mutant::FullRingDiscarded) {
            drop(self.collected.take());
        }
        let ring = &mut self.rings[at];
        if entries == 0 {
            ring.empty_exits += 1;
        }
        let empty_exits = ring.empty_exits;
        // The first exit may be from before a periodic harvest. The second was taken with nothing in the ring.
        if ring.cursors == Cursors::Aligned && empty_exits >= 2 {
            self.make_room(at)?;
        }
        if empty_exits > EMPTY_EXITS { Err(CollectError::Stuck { vcpu }) } else { Ok(Drained { entries }) }
    }

    fn make_room(&mut self, at: usize) -> Result<(), CollectError> {
        let reaper = Arc::clone(&self.reaper);
        self.owed += self.rings[at].make_room()?;
        if !self.reset(&mut reaper.lock(), Vcpu::StandsStill)? {
            self.rings[at].cursors = Cursors::Lost;
        }
        Ok(())
    }

    pub(super) fn harvest_all(&mut self, vcpus: Vcpu) -> Result<Collected, CollectError> {
        let all: Vec<usize> = (0..self.rings.len()).collect();
        self.drain(&all, vcpus)?;
        self.watch();
        Ok(self.collected.take())
    }

    pub(super) fn pending(&self) -> u64 {
        let waiting: u64 = self.rings.iter().map(|ring| u64::from(ring.pending())).sum();
        waiting + self.collected.reported().len() + self.collected.suspected().len()
    }

    /// When to [`look`](Self::look) next; `None` while nothing is logged.
    pub(super) fn next_look(&self) -> Option<Duration> {
        if !self.reaper.lock().is_logging() {
            return None;
        }
        let look = |ring: &Ring| ring.pace.next_look().saturating_sub(ring.looked.elapsed());
        let next = self.rings.iter().map(look).min();
        if self.brakes.are_engaged() { next.map(|next| next.min(WATCH)) } else { next }
    }

    /// Charges vCPUs that are held to a rate with what they wrote. No lock is held: a kick is the monitor's.
    fn watch(&self) {
        let engaged = self.brakes.are_engaged();
        for ring in &self.rings {
            let waiting = if engaged { u64::from(ring.pending()) } else { 0 };
            ring.brake.watch(ring.taken + waiting);
        }
    }

    /// Drains the rings that would fill before they are looked at again.
    pub(super) fn look(&mut self) {
        let mut due = Vec::new();
        for (at, ring) in self.rings.iter_mut().enumerate() {
            ring.pace.observe(ring.pending(), ring.looked.elapsed());
            ring.looked = Instant::now();
            if ring.pace.is_due() {
                due.push(at);
            }
        }
        if !due.is_empty() {
            Stats::add(&self.stats.periodic, 1);
            // A reset that failed is tried again, and reported, with the next harvest that somebody waits for.
            let _ = self.drain(&due, Vcpu::Runs);
        }
        self.watch();
    }

    /// Harvests the rings `which` and resets what was harvested, under the reaper lock.
    ///
    /// Returns only when the reset is done and its TLB flush too, so every page in `collected` may be read.
    fn drain(&mut self, which: &[usize], vcpus: Vcpu) -> Result<u32, CollectError> {
        let reaper = Arc::clone(&self.reaper);
        let mut lock = reaper.lock();
        lock.retry_reprotect(&mut self.collected);
        let mut entries = 0;
        let mut left = which.to_vec();
        for _ in 0..vcpus.passes() {
            self.find_lost(&mut lock, &left, vcpus)?;
            entries += self.pass(&mut lock, &left, vcpus)?;
            if vcpus == Vcpu::StandsStill {
                self.look_for_gaps(&left);
            }
            left.retain(|&at| self.rings[at].needs_another_pass(vcpus == Vcpu::StandsStill));
            if left.is_empty() {
                return Ok(entries);
            }
        }
        match (vcpus, left.first()) {
            (Vcpu::StandsStill, Some(&at)) => Err(CollectError::Stuck { vcpu: self.rings[at].vcpu }),
            _ => Ok(entries),
        }
    }

    /// Finds rings that were overrun in the very moment between harvest and reset, when counts may agree by chance. A
    /// large ring cannot be filled in that moment, and is not worth the walk unless its vCPU says it is full when it
    /// is empty.
    fn look_for_gaps(&mut self, which: &[usize]) {
        for &at in which {
            let ring = &mut self.rings[at];
            let suspicious = ring.size <= SMALL || ring.empty_exits > 0;
            if ring.cursors == Cursors::Agree && suspicious && ring.has_gap() {
                ring.cursors = Cursors::Lost;
                self.overflowed(at, 0);
            }
        }
    }

    /// Sets the lost rings of `which` right if that is possible now. One that stays lost is not read; what its vCPU
    /// writes is only known to be somewhere.
    fn find_lost(&mut self, lock: &mut Locked<'_>, which: &[usize], vcpus: Vcpu) -> Result<(), CollectError> {
        let lost: Vec<usize> =
            which.iter().copied().filter(|&at| self.rings[at].cursors == Cursors::Lost).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let mut aligned = Ok(());
        if vcpus == Vcpu::StandsStill {
            aligned = lost.iter().try_for_each(|&at| self.align(at, lock));
        }
        // Also where that failed: entries that were there have been handed back, and nobody has read them.
        lock.reprotect_all(&mut self.collected);
        aligned
    }

    fn align(&mut self, at: usize, lock: &mut Locked<'_>) -> Result<(), CollectError> {
        let ring = &mut self.rings[at];
        let phantoms = ring.align(lock)?;
        tracing::info!(vcpu = ring.vcpu, phantoms, "an overrun dirty ring is read again");
        // Its resets took what was owed, too, and whatever they left writable is protected again with everything else.
        self.owed = 0;
        self.owed_slots.clear();
        Ok(())
    }

    /// One harvest of the rings `which` and one reset.
    fn pass(&mut self, lock: &mut Locked<'_>, which: &[usize], vcpus: Vcpu) -> Result<u32, CollectError> {
        let reaper = Arc::clone(&self.reaper);
        let mut entries = 0;
        let mut read = Vec::new();
        let mut overrun = Vec::new();
        let mut doubtful = Vec::new();
        for &at in which {
            let ring = &mut self.rings[at];
            match ring.cursors {
                Cursors::Lost => continue,
                Cursors::Aligned => self.owed += ring.close_gap()?,
                Cursors::Agree => {}
            }
            let taken = ring.take(&reaper, &mut self.collected, &mut self.owed_slots, &mut doubtful);
            if taken.entries > 0 {
                read.push((at, taken.entries));
            }
            entries += taken.entries;
            self.owed += taken.entries;
            if taken.overflow {
                ring.cursors = Cursors::Aligned;
                overrun.push((at, taken.entries));
            }
        }
        Stats::add(&self.stats.entries, u64::from(entries));

        // A reset that fails is reported last: what the harvest showed is known now, and by nobody later.
        let reset = self.reset(lock, vcpus);
        if matches!(reset, Ok(false)) {
            // Entries that wait for their reset were pushed over, in a ring that shows it or any; or are somebody else's.
            if overrun.is_empty() {
                overrun = read;
            }
            for &(at, _) in &overrun {
                self.rings[at].cursors = Cursors::Lost;
            }
        }
        for slot in doubtful {
            lock.reprotect(slot, &mut self.collected);
        }
        if !overrun.is_empty() && !mutant::active(Mutant::OverflowIgnored) {
            // Overwritten entries were of pages that are written, writable and in no log.
            lock.reprotect_all(&mut self.collected);
            for (at, taken) in overrun {
                self.overflowed(at, taken);
            }
        }
        reset.map(|_| entries)
    }

    fn overflowed(&self, at: usize, taken: u32) {
        let Ring { vcpu, size, .. } = self.rings[at];
        self.reaper.events().push(Event::RingOverflow { vcpu, taken, size, times: 1 });
    }

    /// Returns everything that is owed to the kernel and compares its count; whether in the end it took exactly that.
    fn reset(&mut self, lock: &mut Locked<'_>, vcpus: Vcpu) -> Result<bool, CollectError> {
        let late = match vcpus {
            Vcpu::Runs => Mutant::ReadBeforeReset,
            Vcpu::StandsStill => Mutant::ResetAfterResume,
        };
        if mutant::active(late) {
            return Ok(true);
        }
        let harvested = self.owed;
        if harvested == 0 {
            self.owed_slots.clear();
            return Ok(true);
        }
        let first = self.reset_once(lock)?;
        // What a short one left is reset before the slots are re-protected, so that nothing is owed then.
        let rest = self.reset_rest(lock, harvested - first.min(harvested));
        let total = u64::from(first) + rest.as_ref().map_or(0, |&rest| rest);
        let slots = self.owed_slots.clone();
        if rest.is_ok() {
            self.owed = 0;
            self.owed_slots.clear();
        }
        if mutant::active(Mutant::ShortResetIgnored)
            || (rest.is_err() && mutant::active(Mutant::ShortResetForgotten))
        {
            return rest.map(|_| total == u64::from(harvested));
        }
        let agrees = total == u64::from(harvested);
        if first > harvested {
            lock.reprotect_all(&mut self.collected);
            self.reaper.events().push(Event::ForeignReset { harvested, reset: first });
        } else if first < harvested {
            for &slot in &slots {
                lock.reprotect(slot, &mut self.collected);
            }
            // What no reset takes was pushed over, and that is another event.
            if agrees || rest.is_err() {
                self.reaper.events().push(Event::ShortReset { harvested, reset: first, slots });
            }
        }
        rest.map(|_| agrees)
    }

    /// Resets until `left` entries more were taken, or none are; returns how many were.
    fn reset_rest(&mut self, lock: &mut Locked<'_>, left: u32) -> Result<u64, CollectError> {
        let mut total = 0;
        while total < u64::from(left) {
            let more = self.reset_once(lock)?;
            total += u64::from(more);
            if more == 0 {
                break;
            }
        }
        Ok(total)
    }

    fn reset_once(&mut self, lock: &mut Locked<'_>) -> Result<u32, CollectError> {
        let count = lock.reset().map_err(CollectError::Reset)?;
        Stats::add(&self.stats.resets, 1);
        self.owed = self.owed.saturating_sub(count);
        Ok(count)
    }
}
