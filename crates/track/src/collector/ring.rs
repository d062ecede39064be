//! One ring, its reader, and how the reader finds the kernel's cursor again after an overflow.

use std::sync::Arc;
use std::time::Instant;

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{Entry, FLAG_DIRTY, FLAG_RESET, Harvested, Harvester, RingMemory, SlotId};

use super::CollectError;
use super::pace::{Pace, RESERVE, RESERVE_WITH_PML};
use crate::reaper::{Locked, Reaper};
use crate::throttle::Brake;
use crate::{Collected, Event};

/// What is known of the reader's cursor and the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cursors {
    /// They agree.
    Agree,
    /// The ring was overrun and the reader stands where the kernel resets next. The kernel may count further entries as
    /// used that are nowhere; its next push shows how many.
    Aligned,
    /// The ring was overrun and they may disagree: it is not read until its vCPU stands still.
    Lost,
}

/// What one harvest of a ring gave.
pub(super) struct Taken {
    pub(super) entries: u32,
    pub(super) overflow: bool,
}

pub(super) struct Ring {
    pub(super) vcpu: u32,
    pub(super) size: u32,
    pub(super) cursors: Cursors,
    pub(super) pace: Pace,
    pub(super) looked: Instant,
    /// Ring-full exits in a row for which nothing was there.
    pub(super) empty_exits: u32,
    /// Entries taken so far.
    pub(super) taken: u64,
    pub(super) brake: Arc<Brake>,
    harvester: Harvester<Arc<dyn RingMemory>>,
}

impl Ring {
    pub(super) fn new(
        vcpu: u32,
        memory: Arc<dyn RingMemory>,
        brake: Arc<Brake>,
    ) -> Result<Self, CollectError> {
        let harvester = Harvester::new(memory).map_err(|error| CollectError::Ring { vcpu, error })?;
        let size = harvester.size();
        Ok(Self {
            vcpu,
            size,
            cursors: Cursors::Agree,
            pace: Pace::new(size),
            looked: Instant::now(),
            empty_exits: 0,
            taken: 0,
            brake,
            harvester,
        })
    }

    /// Entries that could be taken now.
    pub(super) fn pending(&self) -> u32 {
        self.harvester.pending()
    }

    /// Whether an entry lies behind empty ones, which is never so unless the ring was overrun.
    pub(super) fn has_gap(&self) -> bool {
        self.harvester.gap() > 0
    }

    /// Whether there may be more to take, or the cursors can be brought together now.
    pub(super) fn needs_another_pass(&self, stands_still: bool) -> bool {
        match self.cursors {
            Cursors::Agree => false,
            Cursors::Aligned => self.has_gap() || (stands_still && self.pending() > 0),
            Cursors::Lost => stands_still,
        }
    }

    /// Takes the entries that are there. Pages go to `collected`; their slots to `touched`; slots in which a page is
    /// known to stay unprotected to `doubtful`.
    pub(super) fn take(
        &mut self,
        reaper: &Reaper,
        collected: &mut Collected,
        touched: &mut Vec<SlotId>,
        doubtful: &mut Vec<SlotId>,
    ) -> Taken {
        let mut invalid: Option<(u32, SlotId, u64)> = None;
        let mut note = |slot, offset| invalid.get_or_insert((0, slot, offset)).0 += 1;
        let mut harvest = self.harvester.harvest(reaper.slots());
        let mut last = None;
        let mut newest = None;
        for entry in &mut harvest {
            let entry = if mutant::active(Mutant::LastEntryDropped) {
                let Some(before) = newest.replace(entry) else { continue };
                before
            } else {
                entry
            };
            match entry {
                Harvested::Page { slot, offset } => {
                    if collected.insert(slot, offset).is_err() {
                        note(slot, offset);
                    }
                    if last != Some(slot) {
                        last = Some(slot);
                        add_once(touched, slot);
                    }
                }
                // kvm_reset_dirty_gfn drops the whole batch of such an entry, up to 64 pages of the slot, unprotected.
                Harvested::PastEnd { slot, offset, .. } => {
                    note(slot, offset);
                    add_once(doubtful, slot);
                }
                Harvested::UnknownSlot { slot, offset } => note(slot, offset),
            }
        }
        let taken = Taken { entries: harvest.taken(), overflow: harvest.overflow() };
        if let Some((count, slot, offset)) = invalid {
            reaper.events().push(Event::InvalidEntries { vcpu: self.vcpu, count, slot, offset });
        }
        self.taken += u64::from(taken.entries);
        if taken.entries > 0 {
            self.empty_exits = 0;
        }
        self.pace.observe(taken.entries, self.looked.elapsed());
        self.pace.drained();
        self.looked = Instant::now();
        taken
    }

    /// Hands back the empty entries before the first that is there, and says how many: the kernel counts them as used, and
    /// they are nowhere.
    pub(super) fn close_gap(&mut self) -> Result<u32, CollectError> {
        self.hand_back(self.harvester.gap())
    }

    /// After two exits in a row for a ring that is full to the kernel and empty to its aligned reader: so many
    /// entries count as used that the vCPU cannot push one, and nothing shows where the kernel's cursor is.
    ///
    /// But at least the soft limit's are, so as many can be handed back; says how many. What is beyond shows when the
    /// vCPU pushes again.
    pub(super) fn make_room(&mut self) -> Result<u32, CollectError> {
        let soft_limit =
            self.size.checked_sub(RESERVE_WITH_PML).unwrap_or_else(|| self.size.saturating_sub(RESERVE));
        self.hand_back(soft_limit)
    }

    /// Brings the reader to where the kernel resets next, while the vCPU stands still, and leaves the ring empty;
    /// returns how many entries that were never pushed, or overwritten since, were handed back.
    ///
    /// Only what the kernel counts as used may be handed back, or its indices pass each other and the ring is full for
    /// ever. An entry with a flag is used; so is an empty one between the kernel's reset cursor and one with a flag.
    /// Which entry that cursor is at is found by trying: it is the one that a reset takes when it is marked.
    pub(super) fn align(&mut self, lock: &mut Locked<'_>) -> Result<u32, CollectError> {
        let memory = Arc::clone(self.harvester.memory());
        let ring = Entries { entries: memory.entries(), from: self.harvester.index() };
        let mut phantoms = 0;
        let mut next = None;
        // Resets that were cut short may have left marks that nothing holds up: they are no sign of where the cursor waits.
        settle(lock)?;
        // Forwards over entries that are there: usually the first is the one.
        for n in (0..self.size).filter(|&n| ring.flags(n) & FLAG_DIRTY != 0) {
            ring.mark(n);
            next = ring.reset_at(n, lock)?;
            if next.is_some() {
                break;
            }
        }
        // Backwards from those that a reset leaves, over empty ones: the nearest are used for certain.
        if next.is_none()
            && let Some(flagged) = (0..self.size).find(|&n| ring.flags(n) != 0)
        {
            for n in (1..self.size).map(|back| flagged.wrapping_sub(back)).filter(|&n| ring.flags(n) == 0) {
                ring.mark(n);
                phantoms += 1;
                next = ring.reset_at(n, lock)?;
                if next.is_some() {
                    break;
                }
            }
        }
        // From there on in the kernel's order, over what is there and over the holes before it.
        let mut next = next.unwrap_or(0);
        while let Some(ahead) = (0..self.size).find(|&n| ring.flags(next.wrapping_add(n)) != 0) {
            (0..=ahead).for_each(|n| ring.mark(next.wrapping_add(n)));
            phantoms += ahead;
            match ring.reset_at(next, lock)? {
                Some(after) => next = after,
                // Not the kernel's cursor after all: somebody else is at work on this ring.
                None => return Err(CollectError::Stuck { vcpu: self.vcpu }),
            }
        }
        self.move_to(ring.from.wrapping_add(next))?;
        self.cursors = Cursors::Aligned;
        Ok(phantoms)
    }

    /// Hands back `count` empty entries, or those before one that has been pushed meanwhile; says how many.
    fn hand_back(&mut self, count: u32) -> Result<u32, CollectError> {
        let memory = Arc::clone(self.harvester.memory());
        let ring = Entries { entries: memory.entries(), from: self.harvester.index() };
        let empty = (0..count).find(|&n| !ring.at(n).hand_back_empty()).unwrap_or(count);
        self.move_to(ring.from.wrapping_add(empty))?;
        Ok(empty)
    }

    fn move_to(&mut self, index: u32) -> Result<(), CollectError> {
        let memory = Arc::clone(self.harvester.memory());
        self.harvester = Harvester::from_index(memory, index)
            .map_err(|error| CollectError::Ring { vcpu: self.vcpu, error })?;
        Ok(())
    }
}

/// A ring's entries, counted from the reader's.
struct Entries<'a> {
    entries: &'a [Entry],
    from: u32,
}

impl Entries<'_> {
    fn at(&self, n: u32) -> &Entry {
        // The length is a power of two: Harvester::new has checked it.
        &self.entries[self.from.wrapping_add(n) as usize & (self.entries.len() - 1)]
    }

    fn flags(&self, n: u32) -> u32 {
        self.at(n).flags() & (FLAG_DIRTY | FLAG_RESET)
    }

    fn mark(&self, n: u32) {
        self.at(n).set_flags(FLAG_RESET);
    }

    /// Resets, and says where the kernel's cursor is afterwards if it was at `n`, which is marked: behind the marked
    /// entries that follow.
    fn reset_at(&self, n: u32, lock: &mut Locked<'_>) -> Result<Option<u32>, CollectError> {
        let marked =
            (0..).take(self.entries.len()).take_while(|&m| self.flags(n.wrapping_add(m)) & FLAG_RESET != 0);
        let after = marked.last().map_or(n, |m| n.wrapping_add(m + 1));
        settle(lock)?;
        Ok((self.flags(n) == 0).then_some(after))
    }
}

/// Resets whatever can be: until two in a row took nothing, for one that a signal cuts short looks like one that found
/// nothing.
fn settle(lock: &mut Locked<'_>) -> Result<(), CollectError> {
    let mut idle = 0;
    while idle < 2 {
        let count = lock.reset().map_err(CollectError::Reset)?;
        idle = if count == 0 { idle + 1 } else { 0 };
    }
    Ok(())
}

fn add_once(slots: &mut Vec<SlotId>, slot: SlotId) {
    if !slots.contains(&slot) {
        slots.push(slot);
    }
}
