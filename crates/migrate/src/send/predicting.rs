//! A prediction that is computed while pages are sent.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::predict::{Conditions, Prediction, Window, predict};

/// The `nice` value of whoever waits for everybody else.
const LEAST_URGENT: i32 = 19;

/// What is being predicted.
///
/// While pages are sent and the guest may be about to be stopped, the computation takes nobody's processor. On a host with more to do
/// than processors it then may not come to run for minutes; once it is waited for, whoever waits computes the same again.
pub(super) struct Predicting {
    told: Arc<(Vec<Window>, Conditions)>,
    /// `None`: there is no thread to be had.
    thread: Option<JoinHandle<Option<Prediction>>>,
}

impl Predicting {
    pub(super) fn begin(windows: Vec<Window>, conditions: Conditions) -> Self {
        let told = Arc::new((windows, conditions));
        let theirs = Arc::clone(&told);
        let thread = thread::Builder::new().name("predict".into()).spawn(move || {
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LEAST_URGENT);
            predict(&theirs.0, &theirs.1).ok()
        });
        if let Err(error) = &thread {
            tracing::debug!(%error, "the migration is predicted at its end");
        }
        Self { told, thread: thread.ok() }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// The prediction; `None` if nothing can be said.
    pub(super) fn end(self) -> Option<Prediction> {
        match self.thread.filter(JoinHandle::is_finished).map(JoinHandle::join) {
            Some(Ok(prediction)) => prediction,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            // The thread ends by itself. All draws come from one seed, so this is what it would say.
            None => predict(&self.told.0, &self.told.1).ok(),
        }
    }
}
