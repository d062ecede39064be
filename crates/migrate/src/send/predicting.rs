//! A prediction that is computed while pages are sent.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::idle::only_when_idle;
use crate::predict::{Conditions, Forecast, Prediction, Window, predict};

/// What is being predicted.
///
/// While pages are sent and the guest may be about to be stopped, the computation takes nobody's processor. On a host with more to do
/// than processors it then may not come to run for minutes; once it is waited for, whoever waits computes the same again.
pub(super) struct Predicting {
    told: Arc<Told>,
    /// `None`: there is no thread to be had.
    thread: Option<JoinHandle<Option<Prediction>>>,
}

struct Told {
    windows: Vec<Window>,
    conditions: Conditions,
}

impl Told {
    fn predict(&self, wanted: Wanted) -> Option<Prediction> {
        match wanted {
            // What it would take to meet the goal costs many times the rest, and a goal that was met or missed needs nothing.
            Wanted::AtTheEnd => Forecast::new(&self.windows, &self.conditions).ok().map(|f| f.prediction()),
            Wanted::IfThere | Wanted::WithRemedies => predict(&self.windows, &self.conditions).ok(),
        }
    }
}

/// What a prediction is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To decide how to go on, if it is there.
    IfThere,
    /// To say why the goal is missed, and what it would take.
    WithRemedies,
    /// To be compared with what has come of it.
    AtTheEnd,
}

impl Predicting {
    pub(super) fn begin(windows: Vec<Window>, conditions: Conditions) -> Self {
        let told = Arc::new(Told { windows, conditions });
        let theirs = Arc::clone(&told);
        let thread = thread::Builder::new().name("predict".into()).spawn(move || {
            if let Err(error) = only_when_idle() {
                tracing::debug!(%error, "the prediction competes with the migration");
            }
            theirs.predict(Wanted::WithRemedies)
        });
        if let Err(error) = &thread {
            tracing::debug!(%error, "the migration is predicted at its end");
        }
        Self { told, thread: thread.ok() }
    }

    /// Whether it can be had now.
    pub(super) fn is_there(&self, wanted: Wanted) -> bool {
        wanted != Wanted::IfThere || self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// The prediction; `None` if nothing can be said.
    pub(super) fn end(self, wanted: Wanted) -> Option<Prediction> {
        match self.thread.filter(JoinHandle::is_finished).map(JoinHandle::join) {
            Some(Ok(prediction)) => prediction,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            // The thread ends by itself. All draws come from one seed, so this is what it would say.
            None => self.told.predict(wanted),
        }
    }
}
