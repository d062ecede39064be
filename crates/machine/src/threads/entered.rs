//! When the guest began to run.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When the first vCPU entered the guest, for whoever waits for that.
#[derive(Debug, Default)]
pub(super) struct Entered {
    at: Mutex<Option<Instant>>,
    noted: Condvar,
}

impl Entered {
    /// A vCPU is about to enter the guest for its first time.
    pub(super) fn note(&self) {
        self.lock().get_or_insert_with(Instant::now);
        self.noted.notify_all();
    }

    /// When the first did, which is waited for as long as `limit`.
    pub(super) fn wait(&self, limit: Duration) -> Option<Instant> {
        let waited = self.noted.wait_timeout_while(self.lock(), limit, |at| at.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where anything fails")]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_first_entry_counts_and_is_waited_for() {
        let entered = Entered::default();
        assert_eq!(entered.wait(Duration::ZERO), None);
        let begun = Instant::now();
        let first = thread::scope(|scope| {
            scope.spawn(|| entered.note());
            entered.wait(Duration::from_secs(60)).unwrap()
        });
        assert!(first >= begun);
        entered.note();
        assert_eq!(entered.wait(Duration::ZERO), Some(first));
    }
}
