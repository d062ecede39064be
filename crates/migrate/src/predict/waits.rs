//! How long a thread of this host waits for a processor.

use super::draw::quantile;

/// Quantiles that are kept.
const KEPT: usize = 32;
/// In seconds, what a thread waits for at least that waits for another's turn to end: Linux' schedulers let threads run for about
/// 3 ms.
const TURN: f64 = 0.003;
/// No wait is longer: a minute.
const MOST: f64 = 60.0;

/// How much later than it was to a thread comes to run, as was measured of one that slept for a while again and again. The least
/// of what was measured is no wait: it is what the measurement itself takes.
///
/// Whatever takes several threads, as a round or a switchover does, is late by several of these waits, and on a host with more
/// to do than processors most of what is late is them. What was not seen in a few dozen waits may come all the same: the
/// next one is longer than all of n with a chance of 1/(n + 1), and is then taken for another thread's turn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waits {
    /// In seconds, sorted.
    quantiles: [f64; KEPT],
    samples: u32,
    /// The share of the time that went into the longer ones.
    contention: f64,
}

impl Waits {
    /// Nobody ever waits.
    pub const NONE: Self = Self { quantiles: [0.0; KEPT], samples: u32::MAX, contention: 0.0 };

    /// What `samples` say, in seconds, that were taken in so many `seconds`; what is no number is none of them.
    #[must_use]
    pub fn of(samples: &[f64], seconds: f64) -> Self {
        let usable = samples.iter().filter(|wait| wait.is_finite());
        let mut sorted: Vec<f64> = usable.map(|wait| wait.clamp(0.0, MOST)).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| quantile(&sorted, (place as f64 + 0.5) / KEPT as f64);
        // Twice the middle is what it takes where nobody is in the way.
        let usual = 2.0 * quantile(&sorted, 0.5);
        let longer: f64 = sorted.iter().map(|wait| (wait - usual).max(0.0)).sum();
        let least = quantile(&sorted, 0.0);
        Self {
            quantiles: std::array::from_fn(|place| at(place) - least),
            samples: u32::try_from(sorted.len()).unwrap_or(u32::MAX),
            contention: (longer / seconds.max(1e-9)).min(1.0),
        }
    }

    /// The share of its time that a thread waits in vain, from 0 to 1: what runs gets as much less, and how much less differs
    /// from one moment to the next.
    pub(super) const fn contention(&self) -> f64 {
        self.contention
    }

    /// As often exceeded as not.
    pub(super) fn middle(&self) -> f64 {
        quantile(&self.quantiles, 0.5)
    }

    /// One of them.
    pub(super) fn draw(&self, random: &mut fastrand::Rng) -> f64 {
        // Drawn in any case: what is drawn after it is not to depend on how many samples there are.
        let (unseen, at) = (random.f64(), random.f64());
        if self.samples == u32::MAX || unseen * (f64::from(self.samples) + 1.0) >= 1.0 {
            return quantile(&self.quantiles, at);
        }
        // Turns are queued for: of the waits that are longer than one, each further turn is half as likely.
        let longest = self.quantiles[KEPT - 1].max(TURN);
        (longest * (1.0 - (1.0 - at).log2())).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of draws that are longer than `limit`.
    fn longer(waits: &Waits, limit: f64) -> f64 {
        let mut random = fastrand::Rng::with_seed(3);
        let draws = 20_000;
        let longer = (0..draws).filter(|_| waits.draw(&mut random) > limit);
        longer.count() as f64 / f64::from(draws)
    }

    #[test]
    fn what_was_never_seen_is_as_likely_as_the_samples_are_few() {
        let waits = Waits::of(&[0.000_1; 19], 1.0);
        assert!((longer(&waits, 0.002) - 0.05).abs() < 0.01, "{}", longer(&waits, 0.002));
        assert!(longer(&Waits::of(&[], 0.0), 0.002) > 0.99, "nothing is known");
        assert!(longer(&Waits::NONE, 0.0) == 0.0);
    }

    #[test]
    fn draws_are_what_was_measured() {
        let samples: Vec<f64> = (0..100)
            .map(|i| {
                if i < 5 {
                    0.0
                } else if i < 70 {
                    0.000_1
                } else {
                    0.004
                }
            })
            .collect();
        let waits = Waits::of(&samples, 1.2);
        assert!((longer(&waits, 0.002) - 0.3).abs() < 0.04, "{}", longer(&waits, 0.002));
        assert!((waits.middle() - 0.000_1).abs() < 1e-9);
        assert!((waits.contention() - 0.095).abs() < 1e-3, "{}", waits.contention());
        assert_eq!(Waits::of(&[f64::NAN, -1.0, f64::INFINITY], f64::NAN).quantiles, [0.0; KEPT]);
    }
}
