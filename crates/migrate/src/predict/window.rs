//! Measuring the curve.

use std::time::Duration;

use ringmark_dirty::DirtyPages;

use super::Waits;

/// How many different pages were written in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The time.
    pub length: Duration,
    /// The pages.
    pub pages: u64,
}

/// Makes windows of many lengths of short ones that follow each other without a gap.
///
/// Pages that are harvested every few milliseconds tell of every longer window, too: of two windows in a row the longer
/// one's pages are the union. So one measurement of a second or two, at the price of protecting pages once for each short
/// window, gives the curve over all lengths up to its own, the short ones many times.
#[derive(Debug, Default)]
pub struct Sampler {
    /// At each level one window that waits for its other half, twice as long as those of the level below.
    halves: Vec<Option<(Duration, DirtyPages)>>,
    windows: Vec<Window>,
    /// In seconds, and the time in which they were.
    late: Vec<f64>,
    watched: f64,
}

impl Sampler {
    /// Nothing measured yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `pages` were written in the `length` since the last ones.
    pub fn push(&mut self, length: Duration, pages: DirtyPages) {
        let (mut length, mut pages) = (length, pages);
        for half in &mut self.halves {
            self.windows.push(Window { length, pages: pages.len() });
            let Some((before, mut earlier)) = half.take() else {
                *half = Some((length, pages));
                return;
            };
            earlier.union_with(&pages);
            (length, pages) = (length.saturating_add(before), earlier);
        }
        self.windows.push(Window { length, pages: pages.len() });
        self.halves.push(Some((length, pages)));
    }

    /// Every page that was written so far; `None` if nothing was measured.
    #[must_use]
    pub fn written(&self) -> Option<DirtyPages> {
        // What was pushed is in one half or another, merged with its neighbours.
        let mut halves = self.halves.iter().flatten().map(|(_, pages)| pages);
        let mut all = halves.next()?.clone();
        halves.for_each(|pages| {
            all.union_with(pages);
        });
        Some(all)
    }

    /// Whoever measures, and meant to do so `after` so long, did so after `length`.
    pub fn late(&mut self, after: Duration, length: Duration) {
        self.late.push(length.saturating_sub(after).as_secs_f64());
        self.watched += length.as_secs_f64();
    }

    /// How long a thread waits for a processor, as far as it was seen.
    #[must_use]
    pub fn waits(&self) -> Waits {
        Waits::of(&self.late, self.watched)
    }

    /// All windows so far.
    #[must_use]
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }
}
