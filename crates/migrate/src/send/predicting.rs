//! When a migration is predicted.

use crate::predict::{Conditions, Forecast, Prediction, Window, expected, predict};

/// What is to be predicted of the rest of a migration.
///
/// Two hundred plays take milliseconds of a processor that sends pages, and a thread for them takes the guest's when it is to be
/// stopped; with the least priority it holds locks of the allocator while it waits for seconds. So the prediction comes after the
/// first round only where one play tells that the goal may be missed, and else when the guest has left.
pub(super) struct Predicting {
    windows: Vec<Window>,
    conditions: Conditions,
}

/// What a prediction is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To say why the goal is missed, and what it would take, which costs many times the rest.
    WithRemedies,
    /// To be compared with what has come of it.
    AtTheEnd,
}

impl Predicting {
    pub(super) const fn begin(windows: Vec<Window>, conditions: Conditions) -> Self {
        Self { windows, conditions }
    }

    /// The prediction if the goal may be missed.
    pub(super) fn doubt(&self) -> Option<Prediction> {
        let (floor, total) = expected(&self.windows, &self.conditions).ok()?;
        let goal = &self.conditions.goal;
        // What is all but certain to miss it misses it where everything comes as expected, too.
        let doubtful =
            floor > goal.downtime.as_secs_f64() || goal.total.is_some_and(|most| total > most.as_secs_f64());
        doubtful
            .then(|| Forecast::new(&self.windows, &self.conditions).ok().map(|f| f.prediction()))
            .flatten()
    }

    /// The prediction; `None` if nothing can be said.
    pub(super) fn end(self, wanted: Wanted) -> Option<Prediction> {
        match wanted {
            Wanted::AtTheEnd => Forecast::new(&self.windows, &self.conditions).ok().map(|f| f.prediction()),
            Wanted::WithRemedies => predict(&self.windows, &self.conditions).ok(),
        }
    }
}
