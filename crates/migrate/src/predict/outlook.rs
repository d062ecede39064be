//! Whether the goal can be met.

use serde::{Deserialize, Serialize};

use super::Prediction;
use super::remedy::ENOUGH;

/// What is to be expected of the goal while the guest is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outlook {
    /// Nine of ten migrations meet it.
    Met,
    /// Some do.
    #[default]
    Open,
    /// At most one of ten does.
    Missed,
}

impl Prediction {
    /// Whether the goal that it was made for can be met.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        match self.chance {
            chance if chance >= ENOUGH => Outlook::Met,
            chance if chance <= 1.0 - ENOUGH => Outlook::Missed,
            _ => Outlook::Open,
        }
    }
}
