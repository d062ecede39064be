//! Whether a schedule keeps up, and what interval it could keep.

use std::collections::VecDeque;
use std::time::Duration;

/// Checkpoints that are looked back at: enough to contain a guest's burst, few enough to follow its next phase.
const RECENT: usize = 16;

/// The pace of a schedule.
///
/// A checkpoint that takes longer than the interval makes the next one late. Late ones are taken back to back and the
/// instants in between are *missed*; back to back, what a checkpoint takes is at the same time the interval it is taken
/// at, so the longest recent one is an interval that this guest on this host sustains.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    recent: VecDeque<Duration>,
    missed: u64,
    behind: bool,
}

/// What became different with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The schedule fell behind.
    Behind,
    /// It keeps up again: all that is looked back at was in time.
    CaughtUp,
}

impl Pace {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, recent: VecDeque::with_capacity(RECENT), missed: 0, behind: false }
    }

    /// A checkpoint, with the care of the store after it, took `took`. Returns when the next is due, counted from the
    /// instant at which this one was, and what changed.
    pub(crate) fn observe(&mut self, took: Duration) -> (Duration, Option<Change>) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        let missed = took.as_nanos().saturating_sub(1) / self.every.as_nanos().max(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX - 1);
        self.missed += u64::from(missed);
        let change = match (self.behind, missed > 0, self.shortest() <= Some(self.every)) {
            (false, true, _) => Some(Change::Behind),
            (true, false, true) => Some(Change::CaughtUp),
            _ => None,
        };
        match change {
            Some(Change::Behind) => self.behind = true,
            Some(Change::CaughtUp) => self.behind = false,
            None => {}
        }
        let due = if missed > 0 { took } else { self.every };
        (due, change)
    }

    /// The shortest interval that would have been kept by every checkpoint looked back at; `None` before the first.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        self.recent.iter().max().copied()
    }

    /// Instants at which a checkpoint was due and none could be begun.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether checkpoints take longer than the interval.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn in_time() {
        let mut pace = Pace::new(SECOND);
        assert_eq!(pace.observe(SECOND / 2), (SECOND, None));
        assert_eq!(pace.observe(SECOND), (SECOND, None), "exactly in time is in time");
        assert_eq!((pace.missed(), pace.is_behind()), (0, false));
        assert_eq!(pace.shortest(), Some(SECOND));
    }

    #[test]
    fn what_is_late_is_counted_and_said_once() {
        let mut pace = Pace::new(SECOND);
        let took = SECOND * 5 / 2;
        assert_eq!(pace.observe(took), (took, Some(Change::Behind)), "the next one follows at once");
        assert_eq!(pace.observe(took), (took, None));
        assert_eq!(pace.missed(), 4);
        assert_eq!(pace.shortest(), Some(took));
    }

    #[test]
    fn it_has_caught_up_when_the_slow_ones_are_past() {
        let mut pace = Pace::new(SECOND);
        pace.observe(SECOND * 3);
        for _ in 1..RECENT {
            assert_eq!(pace.observe(SECOND / 4).1, None);
        }
        assert_eq!(pace.observe(SECOND / 4).1, Some(Change::CaughtUp));
        assert!(!pace.is_behind());
        assert_eq!(pace.shortest(), Some(SECOND / 4));
    }
}
