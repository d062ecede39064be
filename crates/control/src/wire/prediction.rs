//! Predictions of migrations. The names within a prediction are those of a migration's report, with hyphens.

use ringmark_migrate::predict::{Outlook, Prediction};
use serde::{Deserialize, Serialize};

use super::{Prefer, SCHEMA, first_schema};

/// The migration that is asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictRequest {
    /// [`SCHEMA`]; a request without one is of version 1.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// Milliseconds for which the guest's writes are watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure_ms: Option<f64>,
    /// Bytes a second of the link, or that the migration is to take at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Milliseconds that something takes there and back, beyond what hosts side by side need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// Milliseconds of downtime to aim at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<f64>,
    /// Milliseconds over all to aim at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_total_ms: Option<f64>,
    /// What would give way if the goal cannot be met.
    #[serde(default)]
    pub prefer: Prefer,
}

impl Default for PredictRequest {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            measure_ms: None,
            bandwidth: None,
            round_trip_ms: None,
            max_downtime_ms: None,
            max_total_ms: None,
            prefer: Prefer::default(),
        }
    }
}

/// What a migration would come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Predicted {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the machine.
    pub name: String,
    /// Milliseconds for which the guest's writes were watched.
    pub measured_ms: f64,
    /// Windows, of all lengths, in which its pages were counted.
    pub windows: u64,
    /// Bytes a second of the link.
    pub bandwidth: f64,
    /// Whether that was assumed, for want of anything known.
    pub bandwidth_assumed: bool,
    /// Bytes a second at which pages are sent that the guest has written: less where the processor bounds it.
    pub rate: f64,
    /// Milliseconds of downtime that were aimed at.
    pub max_downtime_ms: f64,
    /// Milliseconds over all that were aimed at.
    pub max_total_ms: Option<f64>,
    /// Whether the guest would be slowed down where its rounds do not get small enough.
    pub throttle: bool,
    /// Whether the goal can be met while the guest is left alone.
    pub goal: Outlook,
    /// The prediction, with what it would take.
    pub prediction: Prediction,
}
