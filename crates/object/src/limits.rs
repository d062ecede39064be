//! How long things may take.

use std::time::Duration;

/// Limits of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For how long a request is tried again, counted from the first try.
    pub retries: Duration,
    /// How long one try of a request may take, its data included.
    pub request: Duration,
    /// After how long without renewal a writer's claim is that of a dead writer. Has to be more than twice
    /// [`retries`](Self::retries) and [`request`](Self::request) together, or slow puts are given up before their time.
    pub lease: Duration,
}

impl Default for Limits {
    /// A minute of retries, two minutes a request, a lease of ten minutes.
    fn default() -> Self {
        Self {
            retries: Duration::from_secs(60),
            request: Duration::from_secs(120),
            lease: Duration::from_secs(600),
        }
    }
}

impl Limits {
    /// How often a claim is renewed: a few failures in a row cost nothing.
    pub(crate) fn beat(self) -> Duration {
        self.lease / 20
    }

    /// How old a claim's last renewal may be when something is published, and how long the publishing put may take.
    pub(crate) fn half_lease(self) -> Duration {
        self.lease / 2
    }
}
