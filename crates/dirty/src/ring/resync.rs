//! Making a ring usable again after it has overflowed.
//!
//! An overflow by `k` entries leaves `k` *phantoms*: entries that the kernel counts as used and that nobody will ever
//! harvest. They begin at the kernel's reset index and end at its dirty index. This end sees neither; it stands
//! somewhere between, so some phantoms lie behind it, where the kernel's reset waits for a mark, and some ahead of
//! it, where it waits for a push. Marking them lets the kernel's counters step over them. Marking one too many would
//! carry its reset index past its dirty index, so each mark needs evidence.

use super::harvester::{Harvester, state};
use super::memory::{RingMemory, entry_at};
use crate::mutant::{self, Mutant};
use crate::{FLAG_DIRTY, FLAG_RESET};

impl<M: RingMemory> Harvester<M> {
    /// How many entries lie between this end and the first dirty one: 0 unless the ring has overflowed.
    ///
    /// The kernel never leaves one out, so a gap means that its index was carried past this one by entries that
    /// overwrote others. It shows only once the kernel has pushed again after the overflow. Costs a walk of the ring
    /// if nothing is pending. May be called while the vCPU runs.
    pub fn gap(&self) -> u32 {
        let dirty = |below: u32| (0..below).find(|&ahead| self.ahead(ahead) == FLAG_DIRTY);
        let Some(mut gap) = dirty(self.size) else { return 0 };
        // The kernel pushes in order, perhaps while this walks: entries that were seen empty may have been pushed since,
        // before the one that was seen dirty. Its flags were acquired, so a second look sees those that were.
        while !mutant::active(Mutant::GapSeenOnce)
            && let Some(earlier) = dirty(gap)
        {
            gap = earlier;
        }
        gap
    }

    /// Makes both ends agree again after an overflow, and returns how many entries it has stepped over or marked for
    /// reset without harvesting them; 0 if nothing was wrong that could be seen.
    ///
    /// It acts on two signs, and both need pushes after the overflow: a [gap](Self::gap) before the first dirty
    /// entry, and harvested entries that the last reset did not take back. So call it after the reset of every drain
    /// of a ring that has ever overflowed, before anything else is harvested; where it returns more than 0, drain and
    /// reset again: entries may have come to light. A vCPU that exits with a full ring and makes no more pushes is
    /// for [`relieve`](Self::relieve).
    ///
    /// `reset` issues `KVM_RESET_DIRTY_RINGS`, with all signals blocked and under the lock that covers harvest and
    /// reset. It may be called many times; its counts include the entries that this method has marked. A reset that a
    /// signal cuts short would be mistaken for one that waits.
    pub fn resync(&mut self, mut reset: impl FnMut() -> u32) -> u32 {
        reset();
        let gap = self.gap();
        if gap > 0 {
            (0..gap).for_each(|_| self.mark_next());
            reset();
        }
        gap + self.unblock(reset)
    }

    /// Frees an entry of a ring that is full and empty at once, and returns how many it has marked: at least 1, or 0
    /// if the ring is not empty.
    ///
    /// For a vCPU that has exited with a full ring (`KVM_EXIT_DIRTY_RING_FULL`), waits, and has left nothing to
    /// harvest, nothing that awaits its reset, and nothing for [`resync`](Self::resync) to see: the kernel counts
    /// phantoms alone. The exit is the evidence that there is one; call this once for each, until the vCPU can push
    /// and [`resync`](Self::resync) sees the rest. `reset` is as for [`resync`](Self::resync).
    pub fn relieve(&mut self, mut reset: impl FnMut() -> u32) -> u32 {
        reset();
        if (0..self.size).any(|ahead| self.ahead(ahead) != 0) {
            return 0;
        }
        self.mark_next();
        reset();
        if self.behind(1) == 0 {
            return 1;
        }
        // The kernel's reset stands further back, so the phantom there is the one that the exit vouches for.
        self.fetch = self.fetch.wrapping_sub(1);
        entry_at(self.memory.entries(), self.fetch).set_flags(0);
        for n in 1..self.size {
            self.mark_behind(n);
            reset();
            if self.behind(n) == 0 {
                return n;
            }
        }
        0
    }

    /// Marks empty entries behind the harvested ones, nearest first, until `reset` takes all of them back.
    ///
    /// A mark that is still there after a reset lies past the entry that the kernel's reset waits at, and the empty
    /// entries between the two are phantoms.
    fn unblock(&self, mut reset: impl FnMut() -> u32) -> u32 {
        let is_marked = |n: u32| self.behind(n) & FLAG_RESET != 0;
        let Some(newest) = (1..=self.size).find(|&n| is_marked(n)) else { return 0 };
        let mut marked = 0;
        for n in newest + 1..=self.size {
            if is_marked(n) {
                continue;
            }
            // A dirty entry here is the kernel's newest, come all the way round: to be harvested first.
            if self.behind(n) == FLAG_DIRTY {
                break;
            }
            self.mark_behind(n);
            marked += 1;
            reset();
            if !is_marked(newest) {
                break;
            }
        }
        marked
    }

    fn mark_next(&mut self) {
        entry_at(self.memory.entries(), self.fetch).hand_back_empty();
        self.fetch = self.fetch.wrapping_add(1);
    }

    fn mark_behind(&self, n: u32) {
        entry_at(self.memory.entries(), self.fetch.wrapping_sub(n)).set_flags(FLAG_RESET);
    }

    /// The flags of the entry `n` past the next one to take.
    fn ahead(&self, n: u32) -> u32 {
        state(self.memory.entries(), self.fetch.wrapping_add(n))
    }

    /// The flags of the entry `n` before the next one to take.
    fn behind(&self, n: u32) -> u32 {
        state(self.memory.entries(), self.fetch.wrapping_sub(n))
    }
}
