//! What ends a run before its time.

use crate::Options;
use crate::options::Hypervisor;

/// What went wrong in a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// A page differs from what was reported of it.
    #[error("page {page} of memslot {slot} was lost: {how}")]
    Escape {
        /// The memslot.
        slot: u16,
        /// The page, counted from the slot's start.
        page: u64,
        /// By what it was noticed, and what else is known.
        how: String,
    },
    /// A restored guest is not what it was.
    #[error("a restored guest is damaged: {0}")]
    Damaged(String),
    /// What should have been refused was not.
    #[error("{0} was not noticed")]
    Unnoticed(&'static str),
    /// Something failed that no injected fault explains.
    #[error("{doing}: {error}")]
    Unexpected {
        /// What was being done.
        doing: &'static str,
        /// The error.
        error: String,
    },
}

impl Trouble {
    /// An error that no injected fault explains.
    pub(crate) fn unexpected(doing: &'static str) -> impl FnOnce(&dyn std::fmt::Display) -> Self {
        move |error| Self::Unexpected { doing, error: error.to_string() }
    }
}

/// Names what was being done when an error came that no injected fault explains.
pub(crate) trait OrTrouble<T> {
    fn or_trouble(self, doing: &'static str) -> Result<T, Trouble>;
}

impl<T, E: std::fmt::Display> OrTrouble<T> for Result<T, E> {
    fn or_trouble(self, doing: &'static str) -> Result<T, Trouble> {
        self.map_err(|error| Trouble::unexpected(doing)(&error))
    }
}

/// Where a run ended before its time, and why.
#[derive(Debug, thiserror::Error)]
#[error("torture failed in iteration {iteration}, step {step}, of seed {seed} on {hypervisor}: {trouble}")]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// Whose guests.
    pub hypervisor: Hypervisor,
    /// The iteration, counted from 0.
    pub iteration: u64,
    /// The step within it.
    pub step: u64,
    /// What went wrong.
    #[source]
    pub trouble: Trouble,
}

impl Failure {
    pub(crate) fn of(options: &Options, iteration: u64, step: u64, trouble: Trouble) -> Box<Self> {
        let Options { seed, hypervisor, .. } = *options;
        Box::new(Self { seed, hypervisor, iteration, step, trouble })
    }

    /// The command line that repeats the iteration.
    #[must_use]
    pub fn replay(&self) -> String {
        let Self { seed, hypervisor, iteration, .. } = self;
        format!(
            "ringmark torture --minutes 1 --seed {seed} --hypervisor {hypervisor} --iteration {iteration}"
        )
    }
}
