//! Whether another way of tracking, or none, would cost the guest less.

mod streak;

use std::fmt;
use std::time::Duration;

use crate::{BySource, Method};
use streak::Streak;

/// The share of an epoch's pages that the backup bitmap may have before stand-alone bitmaps are worth considering.
///
/// The pages of the backup bitmap that were written while the guest ran are all copied while it stands, where stand-alone
/// bitmaps would have had most of them copied in a round; the price of those is a scan of all bitmaps in each round.
/// Measured by `cargo bench -p ringmark-track --bench method` with 1,000 written pages in 512 MiB: at this share the pause
/// is about twice what it is without the kernel's writes, and with stand-alone bitmaps it does not grow.
pub const BITMAP_SHARE: f64 = 0.10;

/// The least pages of the backup bitmap that are worth a word: fewer are copied in a few hundred microseconds.
pub const BITMAP_PAGES: u64 = 512;

/// The share of memory that has to be written in an epoch before it is asked whether tracking is worth it at all.
pub const DIRTY_SHARE: f64 = 0.75;

/// The least that the first write to a protected page costs a vCPU: 0.5 µs, amortised, with a page-modification log.
/// Without one it is 1 to 3 µs, with shadow paging 8 to 16 µs (`cargo bench -p ringmark-track --bench method` measures this
/// host's). What is computed with it is therefore a lower bound.
pub const FIRST_WRITE: Duration = Duration::from_nanos(500);

/// What one epoch was like and what it cost: an increment, not a base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochCost {
    /// The epoch's pages by source.
    pub by_source: BySource,
    /// Pages of the backup bitmap that were written while the guest ran, and how long it took to fetch them: what
    /// [`Cut::collect_backup`](crate::Cut::collect_backup) gave. `None` where it was not asked.
    pub running_bitmap: Option<(u64, Duration)>,
    /// Pages of guest memory.
    pub memory_pages: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Rounds while the guest ran.
    pub rounds: u32,
    /// Pages copied within memory and the time it took, with as many threads as the pause has.
    pub copied: (u64, Duration),
    /// Pages copied in the pause.
    pub last_round: u64,
    /// From the order to stop until the guest ran again.
    pub pause: Duration,
}

/// What would cost less, with the two times by which that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advice {
    /// Stand-alone bitmaps instead of rings with a backup bitmap.
    StandaloneBitmaps {
        /// The share of the epoch's pages that were in the backup bitmap and were written while the guest ran, 0 to 1.
        share: f64,
        /// The pause as it is.
        now: Duration,
        /// The pause as it would be.
        instead: Duration,
    },
    /// No tracking: stop the guest and copy everything.
    StopAndCopy {
        /// The share of memory that was written in the epoch, 0 to 1.
        share: f64,
        /// What a live checkpoint costs each vCPU, at least: the pause and its part of the first writes.
        now: Duration,
        /// What it would cost to stop and copy every page.
        instead: Duration,
    },
}

impl Advice {
    /// The share of pages that led to it, 0 to 1.
    #[must_use]
    pub const fn share(&self) -> f64 {
        match self {
            Self::StandaloneBitmaps { share, .. } | Self::StopAndCopy { share, .. } => *share,
        }
    }

    /// What the guest loses now, and what it would lose instead.
    #[must_use]
    pub const fn times(&self) -> (Duration, Duration) {
        match self {
            Self::StandaloneBitmaps { now, instead, .. } | Self::StopAndCopy { now, instead, .. } => {
                (*now, *instead)
            }
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.share() * 100.0;
        let (now, instead) = self.times();
        let (now, instead) = (now.as_secs_f64() * 1e3, instead.as_secs_f64() * 1e3);
        match self {
            Self::StandaloneBitmaps { .. } => write!(
                f,
                "{percent:.0} % of the written pages came through the backup bitmap while the guest ran, and all of them are \
                 copied in the pause: with stand-alone bitmaps (tracking `bitmap`) it would take about {instead:.2} ms instead \
                 of {now:.2} ms"
            ),
            Self::StopAndCopy { .. } => write!(
                f,
                "{percent:.0} % of memory was written since the last checkpoint: stopping the guest and copying everything \
                 would cost it about {instead:.1} ms, and tracking, copying live and the pause cost it at least {now:.1} ms"
            ),
        }
    }
}

/// Watches what epochs cost, and says when another way would cost less.
///
/// It gives advice when two epochs in a row call for it, and takes it back when two in a row clearly do not: the limits for
/// taking back are half of those for giving, so that a guest near a limit does not make it waver.
#[derive(Clone, Debug)]
pub struct Advisor {
    method: Method,
    /// Whether the next cut should tell which pages of the backup bitmap were written while the guest ran.
    split: bool,
    bitmaps: Streak,
    stop: Streak,
    /// Time to copy one page, the mean over the run.
    copy: Option<Duration>,
}

impl Advisor {
    /// An advisor for a guest that is tracked by `method`.
    #[must_use]
    pub const fn new(method: Method) -> Self {
        Self { method, split: false, bitmaps: Streak::new(), stop: Streak::new(), copy: None }
    }

    /// Whether the next cut is to [collect the backup bitmap](crate::Cut::collect_backup) before the devices are saved: the
    /// bitmap's share is large, and what saving devices writes is in the pause whatever the method.
    #[must_use]
    pub const fn wants_split(&self) -> bool {
        self.split
    }

    /// Takes note of an epoch, and says what it advises now.
    pub fn observe(&mut self, epoch: &EpochCost) -> Vec<Advice> {
        self.learn(epoch.copied);
        let Some(copy) = self.copy else { return Vec::new() };
        let bitmaps = self.standalone_bitmaps(epoch, copy);
        let stop = self.stop_and_copy(epoch, copy);
        bitmaps.into_iter().chain(stop).collect()
    }

    /// Few pages say little of a rate, so a short copy counts for little.
    fn learn(&mut self, (pages, took): (u64, Duration)) {
        const ENOUGH: u64 = 4096;
        if pages == 0 {
            return;
        }
        let seconds = took.as_secs_f64() / precise(pages);
        let weight = (precise(pages) / precise(ENOUGH)).min(1.0) / 2.0;
        let mean = self.copy.map_or(seconds, |old| old.as_secs_f64() * (1.0 - weight) + seconds * weight);
        self.copy = Some(Duration::from_secs_f64(mean));
    }

    fn standalone_bitmaps(&mut self, epoch: &EpochCost, copy: Duration) -> Option<Advice> {
        if !matches!(self.method, Method::RingWithBitmap { .. }) {
            return None;
        }
        let BySource { ring, bitmap, .. } = epoch.by_source;
        self.split = is_large(bitmap, ring + bitmap, 1.0);
        let (live, scan) = match epoch.running_bitmap {
            Some(known) => known,
            // Not known yet; but where even the whole bitmap is small, its part is too.
            None if !self.split => (bitmap, Duration::ZERO),
            None => return None,
        };
        // Of the pages that a round has copied some are written again before the cut; as many of the ring's as of these.
        let again = share(epoch.last_round.saturating_sub(bitmap), ring).min(1.0);
        let saved = copy.mul_f64(precise(live) * (1.0 - again));
        let price = scan * epoch.rounds;
        let instead = epoch.pause.saturating_sub(saved);
        let calls = is_large(live, ring + bitmap, 1.0) && saved > price;
        let opposes = !is_large(live, ring + bitmap, 0.5) || saved * 2 < price;
        self.bitmaps.observe(calls, opposes).then(|| Advice::StandaloneBitmaps {
            share: share(live, ring + bitmap),
            now: epoch.pause,
            instead,
        })
    }

    fn stop_and_copy(&mut self, epoch: &EpochCost, copy: Duration) -> Option<Advice> {
        let BySource { ring, bitmap, other, monitor, .. } = epoch.by_source;
        let written = ring + bitmap + other + monitor;
        let dirty = share(written, epoch.memory_pages);
        // A vCPU pays for the first writes that it makes itself, and all of them stand still in the pause.
        let faults = FIRST_WRITE.mul_f64(precise(ring + bitmap) / f64::from(epoch.vcpus.max(1)));
        let now = epoch.pause + faults;
        let instead = copy.mul_f64(precise(epoch.memory_pages));
        let calls = dirty >= DIRTY_SHARE && instead < now;
        let opposes = dirty < DIRTY_SHARE / 2.0 || instead > now * 2;
        self.stop.observe(calls, opposes).then_some(Advice::StopAndCopy { share: dirty, now, instead })
    }
}

/// Whether `part` pages of `whole` are many, by limits of which this `fraction` applies.
fn is_large(part: u64, whole: u64, fraction: f64) -> bool {
    precise(part) >= precise(BITMAP_PAGES) * fraction && share(part, whole) >= BITMAP_SHARE * fraction
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { precise(part) / precise(whole) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of pages are below 2^52, and these are estimates")]
const fn precise(pages: u64) -> f64 {
    pages as f64
}

#[cfg(test)]
mod tests;
