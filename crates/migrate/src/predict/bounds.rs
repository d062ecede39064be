//! What came out of many plays.

use serde::{Deserialize, Serialize};

use super::draw::quantile;

/// What is left out at either end. Somewhat less than half of what lies beyond the bounds: a few hundred plays show their
/// own quantiles only roughly, and an outcome is to be within the bounds at least as often as they say.
const BEYOND_HALF: f64 = 0.21;
const BEYOND_MOST: f64 = 0.025;

/// A quantity that was predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Bounds {
    /// As often exceeded as not.
    pub expected: f64,
    /// Between these in one of two cases.
    #[serde(rename = "bounds-50")]
    pub half: [f64; 2],
    /// Between these in nine of ten.
    #[serde(rename = "bounds-90")]
    pub most: [f64; 2],
}

impl Bounds {
    /// The bounds of equally likely values; all zero without any.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share| quantile(&values, share);
        Self {
            expected: at(0.5),
            half: [at(BEYOND_HALF), at(1.0 - BEYOND_HALF)],
            most: [at(BEYOND_MOST), at(1.0 - BEYOND_MOST)],
        }
    }

    /// The same in whole numbers.
    #[must_use]
    pub fn whole(self) -> Self {
        let outward = |[low, high]: [f64; 2]| [low.floor(), high.ceil()];
        Self { expected: self.expected.round(), half: outward(self.half), most: outward(self.most) }
    }

    /// Whether an outcome is within the 90 % bounds.
    #[must_use]
    pub fn hold(&self, outcome: f64) -> bool {
        (self.most[0]..=self.most[1]).contains(&outcome)
    }
}
