//! How the arrival of a memory ends: who waits for it, and what ends the machine where it fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::LoadError;

/// What is called, once, when the machine cannot go on.
pub(crate) type EndMachine = Box<dyn FnOnce(LoadError) + Send>;

/// Whether a memory is still arriving.
#[derive(Default)]
pub(crate) struct Outcome {
    state: Mutex<State>,
    changed: Condvar,
    whole: AtomicBool,
}

enum State {
    Loading {
        /// `None` before there is a machine.
        end: Option<EndMachine>,
    },
    Whole,
    Failed(LoadError),
    /// The machine has ended.
    Abandoned,
}

impl Default for State {
    fn default() -> Self {
        Self::Loading { end: None }
    }
}

impl Outcome {
    /// Whether every page is there. Acquire: whoever finds it so sees every page.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Why memory will never be whole, if so: a page that cannot be had, or the machine's end.
    pub(crate) fn broken(&self) -> Option<LoadError> {
        match &*self.lock() {
            State::Failed(error) => Some(error.clone()),
            State::Abandoned => Some(LoadError::abandoned()),
            State::Loading { .. } | State::Whole => None,
        }
    }

    fn wait(&self) -> Result<(), LoadError> {
        let loading = |state: &mut State| matches!(state, State::Loading { .. });
        drop(self.changed.wait_while(self.lock(), loading).unwrap_or_else(PoisonError::into_inner));
        self.broken().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A memory that arrives while the guest runs.
pub(crate) trait Arriving: std::fmt::Debug + Send + Sync {
    /// How it ends.
    fn outcome(&self) -> &Outcome;

    /// Makes the mapping an ordinary one, which wakes everyone.
    fn let_go(&self);

    /// From here on a page that cannot be had ends the machine by `end`.
    ///
    /// # Errors
    /// A page could not be had already.
    fn ends_by(&self, end: EndMachine) -> Result<(), LoadError> {
        match &mut *self.outcome().lock() {
            State::Failed(error) => return Err(error.clone()),
            State::Loading { end: place } => *place = Some(end),
            State::Whole | State::Abandoned => {}
        }
        Ok(())
    }

    /// Why memory will never be whole, if a page could not be had.
    fn failure(&self) -> Option<LoadError> {
        match &*self.outcome().lock() {
            State::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// Waits until every page is there and the mapping is an ordinary one.
    ///
    /// # Errors
    /// A page that cannot be had, or the machine's end.
    fn wait(&self) -> Result<(), LoadError> {
        self.outcome().wait()?;
        self.let_go();
        Ok(())
    }

    /// Every page with contents has been placed.
    fn complete(&self) {
        let outcome = self.outcome();
        let mut state = outcome.lock();
        if !matches!(*state, State::Loading { .. }) {
            return;
        }
        *state = State::Whole;
        // Before the mapping is ordinary again: whoever writes a page that was never marked finds this set.
        outcome.whole.store(true, Ordering::Release);
        drop(state);
        self.finish();
    }

    /// A page cannot be had: the machine ends, and only then is anyone let go who waits for a page.
    fn fail(&self, error: LoadError) {
        let mut state = self.outcome().lock();
        let State::Loading { end } = &mut *state else { return };
        let end = end.take();
        *state = State::Failed(error.clone());
        drop(state);
        if let Some(end) = end {
            end(error);
        }
        self.finish();
    }

    /// The machine has ended: whoever waits for a page is let go, and finds zeros.
    fn abandon(&self) {
        let mut state = self.outcome().lock();
        if matches!(*state, State::Loading { .. }) {
            *state = State::Abandoned;
        }
        drop(state);
        self.finish();
    }

    /// Lets everyone go who waits, for a page or for the end of the arrival.
    fn finish(&self) {
        self.let_go();
        self.outcome().changed.notify_all();
    }
}
