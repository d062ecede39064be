//! What went wrong below, by name: nothing that endangers a page is only logged.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmark_abi::Errno;
use ringmark_dirty::SlotId;

/// Something that could have lost a page, and what was done so that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A reset returned fewer entries than were harvested: a signal stopped it, and pages that it counted may still be
    /// writable. The slots were re-protected by switching their log off and on, and every page of them is reported.
    ShortReset {
        /// Entries that user space had handed back.
        harvested: u32,
        /// Entries that the first `KVM_RESET_DIRTY_RINGS` returned.
        reset: u32,
        /// The slots whose entries were in doubt.
        slots: Vec<SlotId>,
    },
    /// A reset returned more entries than were harvested: someone else harvests the same rings. Every page of every
    /// slot is reported.
    ForeignReset {
        /// Entries that the collector had handed back.
        harvested: u32,
        /// Entries that `KVM_RESET_DIRTY_RINGS` returned.
        reset: u32,
    },
    /// A ring was overrun: one drain gave as many entries as it has, entries lay behind a gap, or the kernel did not
    /// take back all that were harvested. Every slot was re-protected and every page of every slot is reported. The
    /// reader is set onto the kernel's cursor again, at the latest when the vCPU next stands still; until then
    /// everything is reported.
    ///
    /// A ring that is overrun again and again is one event between two calls of [`EventLog::take`], and counts.
    RingOverflow {
        /// The vCPU whose ring it is.
        vcpu: u32,
        /// Entries that the drain gave which noticed it first.
        taken: u32,
        /// Entries in the ring.
        size: u32,
        /// How often it was noticed.
        times: u64,
    },
    /// Entries named a slot that does not exist or a page past its slot's end.
    InvalidEntries {
        /// The vCPU whose ring it is.
        vcpu: u32,
        /// How many in this drain.
        count: u32,
        /// The slot of the first.
        slot: SlotId,
        /// The offset of the first.
        offset: u64,
    },
    /// `KVM_GET_DIRTY_LOG` failed; it may have destroyed its bits. Every page of the slot is reported.
    DirtyLogFailed {
        /// The slot.
        slot: SlotId,
        /// The kernel's answer.
        errno: Errno,
    },
    /// `KVM_CLEAR_DIRTY_LOG` failed: pages stay writable with their bits set, and are reported again next time.
    ClearFailed {
        /// The slot.
        slot: SlotId,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A slot could not be re-protected. Every page of it is reported at every harvest until that succeeds.
    NotReprotected {
        /// The slot.
        slot: SlotId,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The guest could not be resumed after an unfinished cut was dropped.
    NotResumed {
        /// What the vCPUs said.
        error: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortReset { harvested, reset, slots } => {
                write!(
                    f,
                    "a reset was cut short ({reset} of {harvested} entries): reporting every page of memslots"
                )?;
                slots.iter().try_for_each(|slot| write!(f, " {slot}"))
            }
            Self::ForeignReset { harvested, reset } => write!(
                f,
                "a reset returned {reset} entries where {harvested} were harvested, so something else reads the dirty \
                 rings: reporting every page"
            ),
            Self::RingOverflow { vcpu, taken, size, times } => {
                write!(f, "the dirty ring of vCPU {vcpu} overflowed ({taken} of {size} entries taken")?;
                if *times > 1 {
                    write!(f, ", and {} times more", times - 1)?;
                }
                write!(f, "): reporting every page; use a larger ring")
            }
            Self::InvalidEntries { vcpu, count, slot, offset } => write!(
                f,
                "{count} entries of vCPU {vcpu}'s dirty ring name no page of the slot table; the first is page {offset} \
                 of memslot {slot}"
            ),
            Self::DirtyLogFailed { slot, errno } => {
                write!(
                    f,
                    "the dirty log of memslot {slot} could not be read ({errno}): reporting every page of it"
                )
            }
            Self::ClearFailed { slot, errno } => write!(
                f,
                "the dirty log of memslot {slot} could not be cleared ({errno}): its pages are reported again next time"
            ),
            Self::NotReprotected { slot, errno } => write!(
                f,
                "memslot {slot} could not be re-protected ({errno}): reporting every page of it until it is"
            ),
            Self::NotResumed { error } => {
                write!(f, "the guest could not be resumed after an unfinished cut: {error}")
            }
        }
    }
}

/// The events of a tracker: a handle that may be cloned and read while an epoch is open.
///
/// It keeps the newest [`EventLog::CAPACITY`] events and counts all of them.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    newest: VecDeque<Event>,
    total: u64,
}

impl Inner {
    /// Whether `event` is one more time of one that is still to be read.
    fn counted(&mut self, event: &Event) -> bool {
        let Event::RingOverflow { vcpu, times, .. } = event else { return false };
        let known = self.newest.iter_mut().find_map(|known| match known {
            Event::RingOverflow { vcpu: of, times, .. } if of == vcpu => Some(times),
            _ => None,
        });
        known.map(|known| *known += times).is_some()
    }
}

impl EventLog {
    /// The most events that are kept between two calls of [`take`](Self::take).
    pub const CAPACITY: usize = 1024;

    /// The events since the last call, oldest first; at most [`CAPACITY`](Self::CAPACITY).
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        self.lock().newest.drain(..).collect()
    }

    /// How many events there were in the tracker's life.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    pub(crate) fn push(&self, event: Event) {
        let mut inner = self.lock();
        if inner.counted(&event) {
            return;
        }
        tracing::warn!(%event, "dirty tracking");
        if inner.newest.len() == Self::CAPACITY {
            inner.newest.pop_front();
        }
        inner.newest.push_back(event);
        inner.total += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic between two statements leaves a log that is still a log.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
