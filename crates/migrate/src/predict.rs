//! What a migration will come to, before a page of it is moved.
//!
//! The caller measures how many pages the guest writes in windows of several lengths ([`Sampler`]), and says what the way to
//! the destination costs ([`Conditions`]). [`predict`] then plays the migration a few hundred times, with the very rule by
//! which a migration decides on its rounds, and each time with another resample of the windows and another draw of every
//! cost: what came out in the middle half of the plays is the 50 % bound, in nine of ten the 90 % bound.
//!
//! # The curve
//!
//! D(t) is the number of different pages that are written in a time t. For a guest that writes r pages a second uniformly
//! over W pages it is W(1 − e^(−rt/W)). With p bytes a page on the wire and a bandwidth B, ρ = rp/B, a round of the share x
//! of W leaves the share 1 − e^(−ρx), less what is [spared](crate::send) because it was written before it was read. Rounds end
//! at the largest fixed point, which is 1 − 1/ρ, or 0 while ρ ≤ 1. The downtime is never less than that share takes to be sent, however many rounds there are.
//!
//! Few guests write uniformly, so W and r are reported, and carry the curve beyond what was measured; between the shortest and
//! the longest window the measured curve itself counts, with its scatter.
//!
//! What is the same for every round of a play, and not known, is drawn once a play; what differs from round to round is
//! drawn once a round. The same seed gives the same prediction.

mod bounds;
mod curve;
mod draw;
mod estimate;
mod fit;
mod forecast;
mod measure;
mod outlook;
mod play;
mod remedy;
mod rest;
mod sample;
#[cfg(test)]
mod tests;
mod waits;
mod window;

use std::time::Duration;

use ringmark_dirty::PageSize;
use serde::{Deserialize, Serialize};

pub use bounds::Bounds;
pub use estimate::Estimate;
pub use fit::{Uniform, floor_share};
pub use forecast::Forecast;
pub(crate) use forecast::expected;
pub(crate) use measure::lengths;
pub use measure::{MeasureError, measure};
pub use outlook::Outlook;
pub use play::Step;
pub use remedy::Remedies;
pub use rest::rest;
pub use sample::{Sampled, sample};
pub use waits::Waits;
pub use window::{Sampler, Window};

/// What a migration would cost and is to achieve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Pages of guest memory.
    pub memory_pages: u64,
    /// Bytes on the wire of the first round, which sends all of memory.
    pub first_bytes: Estimate,
    /// How long the first round took, where it is over.
    pub first_round: Option<Duration>,
    /// The share of the first round that follows when the pages that the guest writes are read, on average: 1 where nothing is known
    /// of it.
    pub first_rest: f64,
    /// How many pages the first round left to be sent again, where it is over.
    pub first_left: Option<u64>,
    /// Bytes on the wire of a page that is sent again.
    pub page_bytes: Estimate,
    /// Bytes a second.
    pub bandwidth: Estimate,
    /// Seconds before the first page.
    pub setup: Estimate,
    /// Seconds of a round beside its pages, where no thread waits for a processor: the harvest, and the barrier there and
    /// back.
    pub round: Estimate,
    /// Seconds of the downtime beside its pages, where no thread waits for a processor: kick, harvest, state saved, sent and
    /// loaded, digest, resume.
    pub downtime: Estimate,
    /// How long threads wait for a processor.
    pub waits: Waits,
    /// What is asked for.
    pub goal: Goal,
    /// Whether the guest is slowed down where its rounds do not get small enough.
    pub throttle: bool,
    /// Decides all draws.
    pub seed: u64,
}

impl Conditions {
    /// What is assumed of hosts that are side by side, where nothing is known of them or of the guest: to be taken for what
    /// [`predict`] wants and the caller cannot say.
    #[must_use]
    pub fn assumed(page: PageSize) -> Self {
        Self {
            memory_pages: 0,
            first_bytes: Estimate::exact(0.0),
            first_round: None,
            first_rest: 1.0,
            first_left: None,
            page_bytes: Estimate::around(page.bytes() as f64, 0.3),
            bandwidth: Estimate::around(1e9, 0.5),
            setup: Estimate::around(0.005, 0.7),
            round: Estimate::around(0.000_3, 0.7),
            downtime: Estimate::around(0.000_5, 0.8),
            waits: Waits::of(&[0.000_1; 16], 1.0),
            goal: Goal { downtime: Duration::from_millis(300), total: None },
            throttle: false,
            seed: 1,
        }
    }
}

/// What is asked of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The longest downtime.
    pub downtime: Duration,
    /// The longest time over all.
    pub total: Option<Duration>,
}

/// A prediction. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Prediction {
    /// W: pages that the guest writes over and over.
    pub hot_pages: Bounds,
    /// r: writes a second to pages that may have been written before.
    pub dirty_pages_rate: Bounds,
    /// ρ: bytes written a second for each byte sent a second.
    pub rho: Bounds,
    /// The share of W below which no round comes, were the writes uniform.
    pub floor_share: Bounds,
    /// The pages below which no round comes, by the measured curve.
    pub floor_pages: Bounds,
    /// The shortest downtime that rounds can lead to.
    pub floor_downtime: Bounds,
    /// Rounds, with the one in the downtime.
    pub rounds: Bounds,
    /// From the request to the guest's running at the destination.
    pub total_time: Bounds,
    /// In which no guest runs.
    pub downtime: Bounds,
    /// How likely the goal is met, from 0 to 1.
    pub chance: f64,
    /// What it would take to meet the goal in nine of ten migrations, where that is not expected.
    pub remedies: Option<Remedies>,
    /// The rounds of a migration in which everything comes as expected.
    pub course: Vec<Step>,
}

/// Why nothing can be predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// There are no windows, or all of them are of no length.
    #[error("the guest's writes were not measured for any time; nothing can be said of its migration")]
    NothingMeasured,
}

/// Predicts a migration under `conditions` of a guest that was measured in `windows`.
///
/// # Errors
/// If nothing was measured. A guest that wrote nothing is a measurement.
pub fn predict(windows: &[Window], conditions: &Conditions) -> Result<Prediction, PredictError> {
    let forecast = Forecast::new(windows, conditions)?;
    let mut prediction = forecast.prediction();
    if prediction.chance < remedy::ENOUGH {
        prediction.remedies = Some(forecast.remedies());
    }
    Ok(prediction)
}
