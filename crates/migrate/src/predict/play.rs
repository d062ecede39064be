//! One migration, played.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::draw::count;
use super::{Conditions, Goal};
use crate::send::ASSUMED_OVERHEAD;
use crate::send::beside::pays;
use crate::send::converge::{CALLED_OFF, Convergence, Verdict};

/// Thirty years: what takes longer does not end.
pub(super) const FOREVER: f64 = 1e9;
/// Rounds to the floor, each of which comes closer by a constant factor unless ρ is all but 1.
const TO_FLOOR: u32 = 200;

/// A round that is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Step {
    /// Pages in it.
    pub pages: u64,
    /// Milliseconds.
    pub elapsed: f64,
}

/// How long ago what a round has sent was read when the round ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Read {
    /// All of it so long as this share of the round takes.
    Before(f64),
    /// So many pages one after the other, while what is written is harvested.
    InTurn(f64),
}

impl Read {
    /// In a round of so many seconds and pages that is not the first.
    fn of(seconds: f64, pages: f64) -> Self {
        if pays(Duration::from_secs_f64(seconds.clamp(0.0, FOREVER))) {
            Self::InTurn(pages)
        } else {
            Self::Before(1.0)
        }
    }
}

/// What a migration costs in one play, as in [`Conditions`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    memory_pages: u64,
    first_bytes: f64,
    first_round: Option<f64>,
    first_left: Option<f64>,
    first_rest: f64,
    pub(super) page_bytes: f64,
    pub(super) bandwidth: f64,
    setup: f64,
    round: f64,
    downtime: f64,
}

impl Costs {
    pub(super) fn middle(of: &Conditions) -> Self {
        Self {
            memory_pages: of.memory_pages,
            first_bytes: of.first_bytes.value(),
            first_round: of.first_round.map(|time| time.as_secs_f64()),
            first_left: of.first_left.map(|pages| pages as f64),
            first_rest: of.first_rest.clamp(0.0, 1.0),
            page_bytes: of.page_bytes.value(),
            bandwidth: of.bandwidth.value().max(1.0),
            setup: of.setup.value(),
            round: of.round.value(),
            downtime: of.downtime.value(),
        }
    }

    pub(super) fn draw(of: &Conditions, random: &mut fastrand::Rng) -> Self {
        Self {
            memory_pages: of.memory_pages,
            first_bytes: of.first_bytes.draw(random),
            first_round: of.first_round.map(|time| time.as_secs_f64()),
            first_left: of.first_left.map(|pages| pages as f64),
            first_rest: of.first_rest.clamp(0.0, 1.0),
            page_bytes: of.page_bytes.draw(random),
            bandwidth: of.bandwidth.draw(random).max(1.0),
            setup: of.setup.draw(random),
            round: of.round.draw(random),
            downtime: of.downtime.draw(random),
        }
    }

    /// The same if whoever sends is held up: `by` is the logarithm of the factor.
    pub(super) fn slower(self, by: f64) -> Self {
        Self { bandwidth: (self.bandwidth * (-by).exp()).max(1.0), ..self }
    }

    /// The same over a link of so many times the bandwidth, with pages of so much of their size.
    pub(super) fn with(self, bandwidth: f64, ratio: f64) -> Self {
        Self {
            bandwidth: self.bandwidth * bandwidth,
            page_bytes: self.page_bytes * ratio,
            first_bytes: self.first_bytes * ratio,
            ..self
        }
    }

    /// Seconds in which so many pages are sent.
    fn sending(&self, pages: f64) -> f64 {
        (pages * self.page_bytes / self.bandwidth).min(FOREVER)
    }

    fn first(&self) -> f64 {
        let expected = self.round + self.first_bytes / self.bandwidth;
        self.first_round.unwrap_or(expected).min(FOREVER)
    }

    /// The pages below which no round comes, and the seconds of downtime that they make.
    pub(super) fn floor(&self, mut written: impl FnMut(f64, Read) -> f64) -> (f64, f64) {
        // However little the first round has left, the rounds after it lead there.
        let mut pages = written(self.first(), Read::Before(1.0));
        for _ in 0..TO_FLOOR {
            // From above the curve leads down to the greatest of its fixed points.
            let seconds = self.round + self.sending(pages);
            let next = written(seconds, Read::of(seconds, pages)).min(pages);
            let still = pages - next <= 1e-3 * pages;
            pages = next;
            if still {
                break;
            }
        }
        (pages, (self.downtime + self.sending(pages)).min(FOREVER))
    }
}

/// What came of one play. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Played {
    pub(super) rounds: u32,
    pub(super) total: f64,
    pub(super) downtime: f64,
    pub(super) met: bool,
}

/// Whether and when a guest is slowed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slowing {
    /// It is left alone.
    Never,
    /// When its rounds do not get smaller.
    AtFloor,
    /// As soon as it was predicted that they will not.
    Foreseen,
}

/// The round by whose end there is a prediction.
const FORESEEN: u32 = 1;

/// Waits for a processor in the downtime, beside the one before the guest stands still: for whoever harvests, for the
/// destination to take the state, and for the source's word and the guest's own threads there.
const WAITS: usize = 3;

/// Plays a migration of a guest of which `written` says how many pages are left of a round that takes so many seconds, and how
/// many so many seconds later. `wait` says how long whoever is to do the next step waits for a processor.
pub(super) fn play(
    costs: &Costs,
    goal: &Goal,
    throttle: Slowing,
    mut written: impl FnMut(f64, f64, Read) -> [f64; 2],
    mut wait: impl FnMut() -> f64,
    mut watch: impl FnMut(Step),
) -> Played {
    let mut convergence = Convergence::new(goal.downtime, ASSUMED_OVERHEAD);
    let (mut pages, mut elapsed) = (costs.memory_pages, costs.first());
    let (mut total, mut rounds, mut called_off) = (costs.setup, 0, 0);
    // Pages a second to which the guest is held.
    let mut held_to = f64::INFINITY;
    loop {
        rounds += 1;
        total += elapsed;
        watch(Step { pages, elapsed: elapsed * 1e3 });
        convergence.observe(pages, Duration::from_secs_f64(elapsed), None);
        // Until the next harvest, or until the guest stands still.
        let until = wait();
        let read = if rounds == 1 { Read::Before(costs.first_rest) } else { Read::of(elapsed, pages as f64) };
        let [mut pending, mut last] = written(elapsed, until, read);
        if let Some(left) = costs.first_left.filter(|_| rounds == 1) {
            (pending, last) = (left, left + last - pending);
        }
        let pending = count(pending.min(held_to * elapsed));
        let last = count(last.min(held_to * (elapsed + until)));
        let late = goal.total.is_some_and(|most| total >= most.as_secs_f64());
        let verdict = convergence.verdict(late, Some(pending));
        let foreseen = throttle == Slowing::Foreseen && rounds == FORESEEN && verdict == Verdict::Another;
        let mut goes_on = match verdict {
            Verdict::Another if !foreseen => true,
            Verdict::Another | Verdict::Floor { .. } if throttle != Slowing::Never && !late => {
                match convergence.slow_down() {
                    Some(pages) => {
                        held_to = pages;
                        true
                    }
                    None => false,
                }
            }
            Verdict::Another | Verdict::Floor { .. } | Verdict::Switch => false,
        };
        let time = costs.sending(last as f64);
        if !goes_on
            && called_off < CALLED_OFF
            && !late
            && convergence.exceeds_goal(last, Duration::from_secs_f64(until)).is_some()
        {
            called_off += 1;
            convergence.called_off();
            goes_on = true;
        }
        if !goes_on {
            let beside = costs.downtime + until + (0..WAITS).map(|_| wait()).sum::<f64>();
            let downtime = (beside + time).min(FOREVER);
            watch(Step { pages: last, elapsed: time * 1e3 });
            let total = (total + downtime).min(FOREVER);
            let met = downtime <= goal.downtime.as_secs_f64()
                && goal.total.is_none_or(|most| total <= most.as_secs_f64());
            return Played { rounds: rounds + 1, total, downtime, met };
        }
        total = (total + until).min(FOREVER);
        (pages, elapsed) = (last, (costs.round + wait() + time).min(FOREVER));
    }
}
