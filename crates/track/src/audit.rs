//! The audit: finds pages that changed though no source reported them.

mod escape;
mod every;
mod rate;
mod sample;
mod walk;

use std::time::{Duration, Instant};

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{DirtyPages, Gfn, PageSize, SlotId, SlotTable};

use crate::reports::Sources;
use crate::{Memory, MemoryError, Reports};
use every::EveryPage;
use sample::Sample;

pub use escape::Escape;
pub use rate::{AuditRate, AuditRateError};

/// What one observation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// Pages whose content was compared with what it was: those that were watched and that no source has reported.
    pub compared: u64,
    /// Pages that were read and hashed.
    pub pages: u64,
    /// Bytes that were read and hashed.
    pub bytes: u64,
    /// Unreported pages that changed, in the order of slots and offsets.
    pub escapes: Vec<Escape>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Hashes of pages, by which memory is compared from cut to cut.
///
/// [`begin`](Self::begin) at one cut, [`observe`](Self::observe) at the next with the pages of the epoch in between: an
/// unreported page whose hash differs has escaped. Both are called while the guest is stopped and nothing else writes
/// its memory, or what is found means nothing; so an audited pause contains a walk of what is watched, in parallel.
///
/// Every page is watched, eight bytes each, or with [`sample`](Self::sample) a random [share](AuditRate) of them, chosen anew
/// at each cut: the pages that are hashed at this one are compared at the next.
///
/// The hash is XXH3 of 64 bits. It is not secret, and two contents of one page share it by chance once in 2⁶⁴: this finds
/// mistakes, not attackers.
#[derive(Clone, Debug)]
pub struct Audit {
    slots: SlotTable,
    page_size: PageSize,
    rate: AuditRate,
    watched: Watched,
    /// What was reported since the pages were last hashed, in epochs that were not observed.
    passed: DirtyPages,
    reports: Option<Reports>,
}

#[derive(Clone, Debug)]
enum Watched {
    EveryPage(EveryPage),
    Sample(Sample),
}

/// A page that changed, as a walk finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Changed {
    slot: SlotId,
    offset: u64,
    gfn: Gfn,
}

impl Audit {
    /// Takes the hashes of every page of `slots`.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn begin(slots: &SlotTable, memory: &dyn Memory) -> Result<Self, MemoryError> {
        Self::sample(slots, memory, AuditRate::EVERY_PAGE)
    }

    /// Takes the hashes of a random share of the pages of `slots`; of every page where that is the share.
    ///
    /// The choice cannot be foreseen: it comes from the system's entropy.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn sample(slots: &SlotTable, memory: &dyn Memory, rate: AuditRate) -> Result<Self, MemoryError> {
        let watched = if rate.is_every_page() {
            Watched::EveryPage(EveryPage::hash(slots, memory)?)
        } else {
            Watched::Sample(Sample::draw(slots, memory, rate)?)
        };
        Ok(Self {
            slots: slots.clone(),
            page_size: memory.page_size(),
            rate,
            watched,
            passed: DirtyPages::new(slots),
            reports: None,
        })
    }

    /// Has escapes name who reported them last, as the tracker
    /// [remembers](crate::Tracker::remember_reports) it.
    #[must_use]
    pub fn with_reports(self, reports: Reports) -> Self {
        Self { reports: Some(reports), ..self }
    }

    /// The share of pages that is watched from the next observation on.
    #[must_use]
    pub const fn rate(&self) -> AuditRate {
        self.rate
    }

    /// Pages that are watched until the next observation.
    #[must_use]
    pub fn watched(&self) -> u64 {
        match &self.watched {
            Watched::EveryPage(_) => self.slots.total_pages(),
            Watched::Sample(sample) => sample.len(),
        }
    }

    /// Changes the share of pages that is watched from the next observation on; that observation still compares what is
    /// watched now.
    pub fn set_rate(&mut self, rate: AuditRate) {
        self.rate = rate;
    }

    /// Takes note of an epoch whose cut is not observed: its pages count as reported at the next observation.
    pub fn pass(&mut self, reported: &DirtyPages) {
        self.passed.union_with(reported);
    }

    /// Compares every watched page that `reported` does not contain with what it was, and chooses and hashes the pages to
    /// be watched from here on.
    ///
    /// An escape is reported once: the next observation compares with the page as it is now.
    ///
    /// # Errors
    /// If a page cannot be read; the next observation then has nothing to compare, and is a beginning.
    pub fn observe(
        &mut self,
        memory: &dyn Memory,
        reported: &DirtyPages,
    ) -> Result<AuditReport, MemoryError> {
        let begun = Instant::now();
        let passed = self.passed.take();
        let blind = mutant::active(Mutant::AuditBlind);
        let excused =
            |slot, offset| blind || reported.contains(slot, offset) || passed.contains(slot, offset);
        let watched = std::mem::replace(&mut self.watched, Watched::Sample(Sample::nothing()));
        let (seen, pages) = match watched {
            Watched::EveryPage(mut every) => {
                let seen = every.observe(memory, excused)?;
                let pages = self.slots.total_pages();
                self.watched = if self.rate.is_every_page() {
                    Watched::EveryPage(every)
                } else {
                    Watched::Sample(every.thin_out(self.rate))
                };
                (seen, pages)
            }
            Watched::Sample(mut sample) => {
                let seen = sample.observe(memory, excused)?;
                let mut pages = seen.compared;
                self.watched = if self.rate.is_every_page() {
                    pages += self.slots.total_pages();
                    Watched::EveryPage(EveryPage::hash(&self.slots, memory)?)
                } else {
                    let next = sample.draw_again(&self.slots, memory, self.rate)?;
                    pages += next.len();
                    Watched::Sample(next)
                };
                (seen, pages)
            }
        };
        Ok(AuditReport {
            compared: seen.compared,
            pages,
            bytes: pages * self.page_size.bytes(),
            escapes: seen.changed.into_iter().map(|changed| self.name(changed)).collect(),
            elapsed: begun.elapsed(),
        })
    }

    fn name(&self, Changed { slot, offset, gfn }: Changed) -> Escape {
        let last = self.reports.as_ref().and_then(|reports| reports.last(slot, offset));
        let ought = self.reports.as_ref().map_or(Sources::NONE, |reports| reports.ought(last));
        Escape { slot, offset, gfn, page_size: self.page_size, last, ought }
    }

    /// One number over the whole memory as it was last observed: XXH3 over every slot's name and length and the
    /// hashes of its pages. Memories of one layout share it exactly if every page is alike. `None` where only some pages
    /// are watched.
    #[must_use]
    pub fn digest(&self) -> Option<u64> {
        match &self.watched {
            Watched::EveryPage(every) => Some(every.digest()),
            Watched::Sample(_) => None,
        }
    }
}
