//! A limit on the bandwidth that a migration takes.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How far behind its rate a round may be and still catch up: whoever sleeps sleeps longer than he was to.
const BURST: Duration = Duration::from_millis(5);

/// Shares a rate among all streams.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_second: Option<u64>,
    /// When everything that was sent so far would have been sent at the rate.
    paid_until: Mutex<Instant>,
}

impl Limiter {
    /// A limit in bytes a second; `None` for none.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(Instant::now()) }
    }

    /// A round begins. What the ones before did not use is not lent to it: it takes as long as it has bytes, and how long it
    /// takes can be said beforehand.
    pub fn begin(&self) {
        if self.bytes_per_second.is_some() {
            let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            *paid = (*paid).max(Instant::now() + BURST);
        }
    }

    /// Waits until `bytes` more may be sent.
    pub fn take(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_nanos(
            u64::try_from(bytes as u128 * 1_000_000_000 / u128::from(rate.max(1))).unwrap_or(u64::MAX),
        );
        let wait = {
            let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            // What was not used is not saved up.
            *paid = (*paid).max(now) + cost;
            paid.saturating_duration_since(now).saturating_sub(BURST)
        };
        thread::sleep(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_takes_its_time() {
        let limiter = Limiter::new(Some(10 << 20));
        for _ in 0..3 {
            let begun = Instant::now();
            limiter.begin();
            (0..4).for_each(|_| limiter.take(64 << 10));
            assert!(begun.elapsed() >= Duration::from_millis(25), "256 KiB at 10 MiB/s take 25 ms");
            thread::sleep(Duration::from_millis(20));
        }
        let free = Limiter::new(None);
        (0..1000).for_each(|_| free.take(1 << 30));
    }
}
