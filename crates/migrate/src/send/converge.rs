//! When to stop sending rounds.

use std::time::Duration;

/// Rounds without progress after which none is expected any more: a guest that pauses for a moment is waited for.
const STALLED: u32 = 3;
/// A set this small is sent within the jitter of everything else in the downtime.
const SMALL: u64 = 64;
/// Most rounds; each that makes progress takes a tenth off at least, so that more would hardly change the last set.
const MOST: u32 = 40;

/// Cuts that are called off because the last set was larger than the goal allows, at most: each stops the guest for a
/// moment.
pub(crate) const CALLED_OFF: usize = 3;

/// Times that a guest is slowed down by half.
const SLOWER: u32 = 6;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another round: it makes the last set smaller.
    Another,
    /// Stop the guest: the last set is small, or as small as the goal asks and not getting smaller.
    Switch,
    /// The sets do not get smaller any more, and what is left takes longer than the goal.
    Floor {
        /// The downtime to be expected.
        expected: Duration,
    },
}

/// Follows the sizes of the rounds.
///
/// A round sends what was written during the one before, so with a writing rate of ρ times the link's the sets shrink by
/// that factor until the guest writes the same pages again within a round; from there on they do not shrink. Where the
/// goal is met by then the guest is stopped at the first set that is no smaller than the best one: a local minimum.
///
/// The last set is what is written between the last harvest and the standstill. So the guest is stopped right after a
/// round that was short, and what was written meanwhile is known where the tracker can tell.
#[derive(Debug)]
pub(crate) struct Convergence {
    goal: Duration,
    /// The downtime beside its pages.
    overhead: Duration,
    rounds: u32,
    best: u64,
    stalled: u32,
    /// How often the guest was slowed down.
    slowed: u32,
    last: Option<Observed>,
    before: Option<Observed>,
    /// Nanoseconds of a page, and of a round beside its pages.
    page: u64,
    round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Observed {
    pages: u64,
    elapsed: Duration,
    /// Pages that were written meanwhile, where that was measured.
    written: Option<u64>,
}

impl Convergence {
    /// `overhead`: what is to be expected of the downtime beside its pages.
    pub(crate) fn new(goal: Duration, overhead: Duration) -> Self {
        Self {
            goal,
            overhead,
            rounds: 0,
            best: u64::MAX,
            stalled: 0,
            slowed: 0,
            last: None,
            before: None,
            page: 0,
            round: 0,
        }
    }

    /// A round of `pages` took `elapsed` until it was in the destination's memory; the guest has written so many meanwhile, where
    /// that is known.
    pub(crate) fn observe(&mut self, pages: u64, elapsed: Duration, written: Option<u64>) {
        self.rounds += 1;
        self.before = self.last;
        self.last = Some(Observed { pages, elapsed, written });
        let nanos = nanos(elapsed);
        // Of a round of a few pages most is the way there and back; and the first one's holes cost next to nothing.
        if pages > SMALL || self.rounds <= 2 {
            self.page = nanos / pages.max(1);
        }
        // The first is all of memory, and says nothing of the guest.
        if self.rounds == 1 {
            return;
        }
        let beside = nanos.saturating_sub(pages.saturating_mul(self.page));
        self.round = if self.rounds == 2 { beside } else { self.round.min(beside) };
        if pages < self.best / 10 * 9 {
            self.best = pages;
            self.stalled = 0;
        } else {
            self.best = self.best.min(pages);
            self.stalled += 1;
        }
    }

    /// The guest was stopped, and let run on because too much was left.
    pub(crate) fn called_off(&mut self) {
        self.stalled = 0;
    }

    /// Pages a second to which the guest is to be held where the rounds have come to their floor: half of what the link takes,
    /// a quarter the next time, and so on; `None` if that has been tried often enough.
    pub(crate) fn slow_down(&mut self) -> Option<f64> {
        self.slowed += 1;
        if self.slowed > SLOWER {
            return None;
        }
        (self.stalled, self.best) = (0, u64::MAX);
        Some(1e9 / as_f64(self.page.max(1)) / f64::from(1_u32 << self.slowed))
    }

    /// Pages that the guest writes in a second: while the last round was sent, or else the last round's, in the time of the one
    /// before.
    pub(crate) fn dirty_pages_rate(&self) -> u64 {
        let (pages, elapsed) = match (self.last, self.before) {
            (Some(Observed { written: Some(written), elapsed, .. }), _) => (written, elapsed),
            (Some(last), Some(before)) => (last.pages, before.elapsed),
            _ => return 0,
        };
        u64::try_from(u128::from(pages) * 1_000_000_000 / elapsed.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    /// How many pages are dirty by now: what the guest wrote while the last round was sent.
    fn outstanding(&self) -> u64 {
        let (Some(last), Some(before)) = (self.last, self.before) else { return u64::MAX };
        let grown = u128::from(last.pages) * last.elapsed.as_nanos() / before.elapsed.as_nanos().max(1);
        // More than it wrote while the longer round before was sent it does not write over and over.
        u64::try_from(grown).unwrap_or(u64::MAX).min(last.pages.max(1))
    }

    /// The downtime to be expected of a guest that was stopped `ago` and has left `pages`, if that is more than the goal and
    /// more than was known when it was stopped.
    pub(crate) fn exceeds_goal(&self, pages: u64, ago: Duration) -> Option<Duration> {
        // What is still to come beside the pages is taken for another two times there and back.
        let expected = ago.saturating_add(self.sending(pages)).saturating_add(self.sending(0) * 2);
        let unforeseen = self.verdict(true, None) == Verdict::Switch;
        (unforeseen && expected > self.goal).then_some(expected)
    }

    /// How long `pages` take until they are in the destination's memory.
    pub(super) fn sending(&self, pages: u64) -> Duration {
        Duration::from_nanos(self.round.saturating_add(pages.saturating_mul(self.page)))
    }

    /// The downtime if the guest were stopped now; `pending`: the pages that are dirty by now, where that is known.
    pub(crate) fn expected_downtime(&self, pending: Option<u64>) -> Duration {
        let Some(last) = self.last else { return Duration::MAX };
        if self.before.is_none() {
            return self.overhead.saturating_add(last.elapsed);
        }
        self.overhead.saturating_add(self.sending(pending.unwrap_or_else(|| self.outstanding())))
    }

    /// `late`: no time is left for another round; `pending` as above.
    pub(crate) fn verdict(&self, late: bool, pending: Option<u64>) -> Verdict {
        let Some(last) = self.last else { return Verdict::Another };
        let expected = self.expected_downtime(pending);
        let met = expected <= self.goal;
        let spent = late || self.stalled >= STALLED || self.rounds >= MOST + MOST / 4 * self.slowed;
        let small = self.before.is_some() && pending.unwrap_or(last.pages) <= SMALL;
        match (spent || small, met, self.stalled > 0 && self.rounds > 2) {
            (_, true, true) | (true, true, _) => Verdict::Switch,
            (true, false, _) => Verdict::Floor { expected },
            _ => Verdict::Another,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of a page")]
fn as_f64(nanos: u64) -> f64 {
    nanos as f64
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_NS: u64 = 2_000;

    /// A guest that writes uniformly over `hot` pages, `rate` times as fast as pages are sent; memory of a million.
    fn play(hot: f64, rate: f64, goal: Duration) -> (u32, u64, Verdict) {
        let mut convergence = Convergence::new(goal, Duration::ZERO);
        let mut pages = 1e6_f64;
        loop {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of pages")]
            let count = pages as u64;
            convergence.observe(count, Duration::from_nanos(count * PAGE_NS), None);
            let verdict = convergence.verdict(false, None);
            if verdict != Verdict::Another {
                return (convergence.rounds, count, verdict);
            }
            pages = hot * (1.0 - (-rate * pages / hot).exp());
        }
    }

    #[test]
    fn a_guest_that_writes_slower_than_the_link_converges_to_next_to_nothing() {
        let (rounds, last, verdict) = play(65_536.0, 0.3, Duration::from_millis(5));
        assert_eq!(verdict, Verdict::Switch);
        assert!(last <= SMALL && rounds < 20, "{rounds} rounds, {last} pages");
    }

    #[test]
    fn one_that_writes_faster_has_a_floor_that_is_known_soon() {
        let (rounds, last, verdict) = play(65_536.0, 1.5, Duration::from_millis(5));
        // The fixed point of x = 1 - exp(-1.5 x) is 0.58.
        let Verdict::Floor { expected } = verdict else { panic!("{verdict:?}") };
        assert!((0.5..0.7).contains(&(f64::from(u32::try_from(last).unwrap()) / 65_536.0)), "{last}");
        assert!(expected > Duration::from_millis(60) && rounds < 12, "{expected:?} after {rounds}");
    }

    #[test]
    fn a_floor_below_the_goal_is_good_enough() {
        let (_, _, verdict) = play(1_000.0, 2.0, Duration::from_millis(5));
        assert_eq!(verdict, Verdict::Switch, "1000 pages take 2 ms");
    }

    #[test]
    fn a_guest_that_writes_nothing_is_switched_after_two_rounds() {
        assert_eq!(play(1e-9, 0.0, Duration::ZERO).0, 2);
    }
}
