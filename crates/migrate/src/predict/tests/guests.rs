//! Guests that write, and what becomes of them when they are moved.

use std::time::Duration;

use ringmark_dirty::{DirtyPages, Gfn, Memslot, SlotId, SlotTable};

use crate::predict::draw::normal;
use crate::predict::{Conditions, Sampler};
use crate::send::ASSUMED_OVERHEAD;
use crate::send::beside::{interval, pays};
use crate::send::converge::{CALLED_OFF, Convergence, Verdict};

/// Pages of memory of every guest.
pub(super) const MEMORY: u64 = 32_768;
/// Windows of a measurement, and the length of each in seconds.
const WINDOWS: u32 = 128;
const WINDOW: f64 = 0.008;

/// Where a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Uniform,
    Sequential,
    /// The k-th page as often as 1/k.
    Zipf,
    /// Uniformly, four times as often, in a quarter of the time: bursts of 10 ms on average.
    Bursty,
}

/// How soon threads get a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// At once.
    Idle,
    /// One in five waits for another's turn of up to 6 ms.
    Busy,
}

impl Host {
    pub(super) fn wait(self, random: &mut fastrand::Rng) -> f64 {
        let waits = self == Self::Busy && random.f64() < 0.2;
        if waits { 0.006 * random.f64() } else { 0.000_08 * (0.4 * normal(random)).exp() }
    }
}

/// A guest that writes `rate` pages a second over `hot` pages.
pub(super) struct Guest {
    pattern: Pattern,
    hot: u64,
    rate: f64,
    random: fastrand::Rng,
    table: SlotTable,
    cursor: u64,
    /// A part of a write that is still to come.
    rest: f64,
    busy: bool,
    /// Seconds to the end of the burst or of the pause.
    left: f64,
}

impl Guest {
    pub(super) fn new(pattern: Pattern, hot: u64, rate: f64, seed: u64) -> Self {
        let slot = Memslot { id: SlotId::new(0, 0), base: Gfn(0), npages: MEMORY };
        Self {
            pattern,
            hot,
            rate,
            random: fastrand::Rng::with_seed(seed),
            table: SlotTable::new([slot]).unwrap(),
            cursor: 0,
            rest: 0.0,
            busy: false,
            left: 0.0,
        }
    }

    /// The pages that it writes in so many seconds.
    pub(super) fn run(&mut self, seconds: f64) -> DirtyPages {
        let mut pages = DirtyPages::new(&self.table);
        if self.pattern != Pattern::Bursty {
            self.write(self.rate * seconds, &mut pages);
            return pages;
        }
        let mut seconds = seconds;
        while seconds > 0.0 {
            if self.left <= 0.0 {
                self.busy = !self.busy;
                let mean = if self.busy { 0.010 } else { 0.030 };
                self.left = -(1.0 - self.random.f64()).ln() * mean;
            }
            let step = self.left.min(seconds);
            if self.busy {
                self.write(self.rate * 4.0 * step, &mut pages);
            }
            self.left -= step;
            seconds -= step;
        }
        pages
    }

    /// The pages that it writes beside a `round` of so many seconds, but for those that the round reads afterwards.
    fn run_beside(&mut self, round: &DirtyPages, seconds: f64) -> DirtyPages {
        let slot = SlotId::new(0, 0);
        if !pays(Duration::from_secs_f64(seconds)) {
            return self.run(seconds);
        }
        let mut order: Vec<u64> = round.iter().map(|(_, page)| page).collect();
        // The first is all of memory, and in order; the others are shuffled in chunks of 64 pages.
        if order.len() as u64 != MEMORY {
            let mut keys: Vec<u64> = (0..MEMORY / 64).collect();
            self.random.shuffle(&mut keys);
            order.sort_by_key(|page| keys[usize::try_from(page / 64).unwrap()]);
        }
        let mut unread = round.clone();
        let (mut passed, mut read, mut owed) = (0.0, 0, DirtyPages::new(&self.table));
        while passed < seconds {
            let step = interval(Duration::from_secs_f64(passed)).as_secs_f64().min(seconds - passed);
            let pages = self.run(step);
            passed += step;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of pages")]
            let by_now = ((order.len() as f64 * passed / seconds) as usize).min(order.len());
            for page in &order[read..by_now] {
                unread.slot_mut(slot).unwrap().remove(*page);
            }
            read = by_now;
            for (_, page) in pages.iter().filter(|(_, page)| !unread.contains(slot, *page)) {
                owed.insert(slot, page).unwrap();
            }
        }
        owed
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of pages")]
    fn write(&mut self, writes: f64, pages: &mut DirtyPages) {
        self.rest += writes;
        let count = self.rest as u64;
        self.rest -= count as f64;
        for _ in 0..count {
            let page = match self.pattern {
                Pattern::Uniform | Pattern::Bursty => self.random.u64(..self.hot),
                Pattern::Sequential => {
                    self.cursor = (self.cursor + 1) % self.hot;
                    self.cursor
                }
                Pattern::Zipf => ((self.hot as f64).powf(self.random.f64()) as u64).min(self.hot) - 1,
            };
            pages.insert(SlotId::new(0, 0), page).unwrap();
        }
    }

    /// Measures it for a second, as a monitor would: the windows are never quite as long as was meant.
    pub(super) fn measure(&mut self) -> Sampler {
        let mut sampler = Sampler::new();
        for _ in 0..WINDOWS {
            let length = WINDOW * (1.0 + 0.1 * self.random.f64());
            let pages = self.run(length);
            sampler.push(Duration::from_secs_f64(length), pages);
        }
        sampler
    }

    /// Moves it, and returns the rounds, the total and the downtime in milliseconds.
    pub(super) fn migrate(&mut self, conditions: &Conditions, host: Host) -> (f64, f64, f64) {
        let mut random = self.random.fork();
        let bandwidth = conditions.bandwidth.draw(&mut random);
        let page_bytes = conditions.page_bytes.draw(&mut random);
        let mut convergence = Convergence::new(conditions.goal.downtime, ASSUMED_OVERHEAD);
        let mut total = conditions.setup.draw(&mut random);
        let mut elapsed =
            conditions.round.draw(&mut random) + conditions.first_bytes.draw(&mut random) / bandwidth;
        let mut round = DirtyPages::new(&self.table);
        round.insert_all();
        let (mut rounds, mut called_off) = (1.0, 0);
        loop {
            total += elapsed;
            rounds += 1.0;
            convergence.observe(round.len(), Duration::from_secs_f64(elapsed), None);
            let mut written = self.run_beside(&round, elapsed);
            let pending = written.len();
            let late = conditions.goal.total.is_some_and(|most| total >= most.as_secs_f64());
            // The next harvest or the standstill.
            let next = host.wait(&mut random);
            total += next;
            written.union_with(&self.run(next));
            let time = written.len() as f64 * page_bytes / bandwidth * (0.01 * normal(&mut random)).exp();
            if convergence.verdict(late, Some(pending)) != Verdict::Another {
                let stopped = Duration::from_secs_f64(next);
                if late
                    || called_off == CALLED_OFF
                    || convergence.exceeds_goal(written.len(), stopped).is_none()
                {
                    let waits = (0..3).map(|_| host.wait(&mut random)).sum::<f64>();
                    let downtime = conditions.downtime.draw(&mut random) + waits + time;
                    return (rounds, (total + downtime) * 1e3, (next + downtime) * 1e3);
                }
                called_off += 1;
                convergence.called_off();
            }
            (round, elapsed) = (written, conditions.round.draw(&mut random) + host.wait(&mut random) + time);
        }
    }
}
