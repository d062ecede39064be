//! What pages will cost on the wire, by a look at some of them.

use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, SlotId};
use ringmark_track::{Memory, MemoryError};

use super::Estimate;
use crate::codec::{Encoded, Encoder, hash_content};
use crate::wire::Encoding;

/// Runs that are looked at.
const RUNS: u64 = 64;
/// Pages of each, at most.
const RUN: u64 = 8;
/// Runs by which an encoder finds out what pays; they do not count.
const LEARNING: usize = 8;

/// What pages cost that were looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Bytes of a page on the wire.
    pub bytes: f64,
    /// Seconds of this processor for a page: reading, encoding, hashing.
    pub work: f64,
    /// The standard error of the bytes, as a share of them.
    error: f64,
}

impl Sampled {
    /// Seconds for a page over a link of `bandwidth` bytes a second: while one travels the next is encoded.
    #[must_use]
    pub fn seconds(self, bandwidth: f64) -> f64 {
        self.work.max(self.bytes / bandwidth.max(1.0))
    }

    /// A quantity that follows from this, which may be off by the standard deviation `spread` of its logarithm besides what was
    /// not looked at.
    #[must_use]
    pub fn estimate(self, value: f64, spread: f64) -> Estimate {
        Estimate::around(value, self.error.hypot(spread))
    }
}

/// Encodes some of `pages` with `encodings`, as a migration over a link of `bandwidth` bytes a second would. The guest may write
/// them meanwhile. A page costs its size and no work where there are none to look at.
///
/// # Errors
/// If memory cannot be read.
pub fn sample(
    memory: &dyn Memory,
    pages: &DirtyPages,
    encodings: &[Encoding],
    bandwidth: f64,
) -> Result<Sampled, MemoryError> {
    let page = usize::try_from(memory.page_size().bytes()).unwrap_or(usize::MAX);
    let mut encoder = Encoder::new(memory.page_size(), encodings, 0);
    let (mebibyte, seconds) = (1 << 20, f64::from(1 << 20) / bandwidth.clamp(1.0, 1e15));
    encoder.economy().sent(mebibyte, Duration::from_secs_f64(seconds));
    let mut encode = |(slot, first, count): Run| {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(page)];
        memory.read_run(slot, first, &mut bytes)?;
        // The digest's part of it.
        bytes.chunks_exact(page).for_each(|page| {
            std::hint::black_box(hash_content(page));
        });
        // Nothing is sent, so nothing fails.
        Ok(encoder.encode(slot, first, &bytes, false, &mut |_| Ok(())).unwrap_or_default())
    };
    let runs = spread(pages);
    for run in runs.iter().take(LEARNING) {
        encode(*run)?;
    }
    let begun = Instant::now();
    let sent: Result<Vec<Encoded>, MemoryError> = runs.iter().map(|run| encode(*run)).collect();
    let work = begun.elapsed().as_secs_f64() / runs.iter().map(|run| run.2).sum::<u64>().max(1) as f64;
    let costs = runs.iter().zip(sent?).map(|(run, sent)| sent.bytes as f64 / run.2 as f64);
    let unknown = Sampled { bytes: page as f64, work: 0.0, error: 0.0 };
    Ok(mean(&costs.collect::<Vec<_>>()).map_or(unknown, |(bytes, error)| Sampled { bytes, work, error }))
}

/// A memslot, the first page and how many.
type Run = (SlotId, u64, u64);

/// Runs of `pages`, one at random in each of as many parts of equal size.
fn spread(pages: &DirtyPages) -> Vec<Run> {
    let (all, mut passed) = (pages.len(), 0);
    let parts = RUNS.min(all);
    let mut chosen = (0..parts)
        .map(|part| {
            let (from, to) = (all * part / parts, all * (part + 1) / parts);
            fastrand::u64(from..to.max(from + 1))
        })
        .peekable();
    let mut runs = Vec::new();
    for (slot, run) in pages.runs() {
        let length = run.end - run.start;
        while let Some(rank) = chosen.next_if(|rank| *rank < passed + length) {
            let first = run.start + (rank - passed);
            runs.push((slot, first, RUN.min(run.end - first)));
        }
        passed += length;
    }
    runs
}

/// The mean of the bytes of a page, and its standard error as a share of it.
fn mean(costs: &[f64]) -> Option<(f64, f64)> {
    let count = costs.len() as f64;
    let bytes = costs.iter().sum::<f64>() / count;
    let variance = costs.iter().map(|cost| (cost - bytes).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (bytes > 0.0).then(|| (bytes, (variance / count).sqrt() / bytes))
}

#[cfg(test)]
mod tests {
    use ringmark_dirty::{Gfn, Memslot, PageSize, SlotTable};

    use super::*;

    const PAGE: usize = 4096;
    const ALL: [Encoding; 5] = [Encoding::Zero, Encoding::Word, Encoding::Raw, Encoding::Lz4, Encoding::Zstd];

    /// Every second half of 64 pages is noise, the others are zeros.
    #[derive(Debug)]
    struct Halves;

    impl Memory for Halves {
        fn page_size(&self) -> PageSize {
            PageSize::new(PAGE as u64).unwrap()
        }

        fn read(&self, _: SlotId, offset: u64, page: &mut [u8]) -> Result<(), MemoryError> {
            page.fill(0);
            if (offset / 32).is_multiple_of(2) {
                fastrand::Rng::with_seed(offset).fill(page);
            }
            Ok(())
        }
    }

    /// Pages from the first number of each to the second.
    fn pages(ranges: &[[u64; 2]]) -> DirtyPages {
        let slot = SlotId::new(0, 0);
        let slots = SlotTable::new([Memslot { id: slot, base: Gfn(0), npages: 1 << 16 }]).unwrap();
        let mut pages = DirtyPages::new(&slots);
        let set = pages.slot_mut(slot).unwrap();
        ranges.iter().for_each(|[from, to]| {
            set.insert_range(*from..*to);
        });
        pages
    }

    #[test]
    fn what_is_looked_at_tells_of_the_rest() {
        let cost = |ranges: &[_]| sample(&Halves, &pages(ranges), &ALL, 1e9).unwrap();
        let half = cost(&[[0, 1 << 16]]);
        assert!((0.15..0.85).contains(&(half.bytes / PAGE as f64)), "{half:?}");
        assert!(half.error > 0.01 && half.error < 0.5, "{half:?}");
        let noise = cost(&[[0, 32], [64, 96], [128, 160]]);
        assert!(noise.bytes >= PAGE as f64 && noise.error < 0.01, "{noise:?}");
        assert!(cost(&[[32, 64]]).bytes < 64.0);
        assert_eq!(cost(&[]), Sampled { bytes: PAGE as f64, work: 0.0, error: 0.0 });
        // Over a slow link the wire counts, over a fast one the processor.
        let wire = noise.seconds(1e3);
        assert!((wire * 1e3 - noise.bytes).abs() < 1.0 && noise.work > 0.0, "{noise:?}");
        assert_eq!(noise.seconds(1e15), noise.work);
    }

    #[test]
    fn every_part_is_looked_at_once() {
        let ranges = [[0, 10], [100, 4000], [60_000, 60_100]];
        let runs = spread(&pages(&ranges));
        assert_eq!(runs.len(), 64);
        let inside = |(_, first, count): &Run| {
            (1..=RUN).contains(count)
                && ranges.iter().any(|[from, to]| (*from..*to).contains(first) && first + count <= *to)
        };
        assert!(runs.is_sorted() && runs.iter().all(inside), "{runs:?}");
    }
}
