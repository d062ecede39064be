//! Numbers that are not known exactly.

use super::draw::{normal, quantile};

/// No quantity of a migration is greater: 10^15 bytes, or seconds.
const MOST: f64 = 1e15;
/// A factor of e^3 either way says that nothing is known.
const MOST_SPREAD: f64 = 3.0;
/// From the middle half of a normal distribution to its standard deviation.
const HALF_WIDTH: f64 = 1.349;

/// A positive quantity, and how far off it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    value: f64,
    spread: f64,
}

impl Estimate {
    /// A quantity that is kept to.
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self::around(value, 0.0)
    }

    /// A quantity with the standard deviation of its logarithm: 0.1 means that two of three values lie within ±10 %.
    #[must_use]
    pub fn around(value: f64, spread: f64) -> Self {
        // `max` takes the other one of a number and none.
        let within = |number: f64, most: f64| number.max(0.0).min(most);
        Self { value: within(value, MOST), spread: within(spread, MOST_SPREAD) }
    }

    /// What `samples` say of the next one. Without samples it is nothing.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut logs: Vec<f64> =
            samples.iter().filter(|s| **s > 0.0 && s.is_finite()).map(|s| s.ln()).collect();
        logs.sort_by(f64::total_cmp);
        if logs.is_empty() {
            return Self::exact(0.0);
        }
        let middle = (quantile(&logs, 0.75) - quantile(&logs, 0.25)) / HALF_WIDTH;
        // The extremes of a few samples are as telling as their middle; and few samples tell little.
        let range = (quantile(&logs, 1.0) - quantile(&logs, 0.0)) / 4.0;
        let few = 1.0 + 2.0 / logs.len() as f64;
        Self::around(quantile(&logs, 0.5).exp(), middle.max(range) * few)
    }

    /// The middle.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.value
    }

    /// The standard deviation of its logarithm.
    #[must_use]
    pub const fn spread(self) -> f64 {
        self.spread
    }

    /// One of its values.
    pub(super) fn draw(self, random: &mut fastrand::Rng) -> f64 {
        // Drawn in any case: other estimates' draws are not to depend on this one's spread.
        (self.value * (self.spread * normal(random)).exp()).min(MOST)
    }
}
