//! When to look at a ring, so that no vCPU has to wait for it.

use std::time::Duration;

/// The entries that the kernel keeps free (`KVM_DIRTY_RING_RSVD_ENTRIES`).
pub(super) const RESERVE: u32 = 64;

/// Those with a page-modification log, whose presence user space cannot see. A ring that is no larger never has one.
pub(super) const RESERVE_WITH_PML: u32 = RESERVE + 512;

/// Never sooner: looking costs a wake-up, and a ring that fills faster than this is too small for its writer.
const SHORTEST: Duration = Duration::from_millis(1);

/// Never later: a writer that starts from idle is noticed by then.
const LONGEST: Duration = Duration::from_millis(200);

/// The fill of one ring over time.
///
/// No vCPU stalls while r·τ < R − ρ, with r the entries a second, τ the time between drains, R the ring's size and ρ
/// the kernel's reserve. But every drain protects its pages again and taxes the guest with a fault for each, so a
/// ring is drained as late as that allows: when it is three quarters full, or would be before the next look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    room: u32,
    /// Entries a second, the mean of the last two looks.
    rate: f64,
    seen: u32,
}

impl Pace {
    pub(super) fn new(size: u32) -> Self {
        Self { room: size.saturating_sub(RESERVE_WITH_PML).max(size / 4), rate: 0.0, seen: 0 }
    }

    /// Takes note of `pending` entries, `elapsed` after the last look or drain.
    pub(super) fn observe(&mut self, pending: u32, elapsed: Duration) {
        let grown = f64::from(pending.saturating_sub(self.seen));
        self.seen = pending;
        let seconds = elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.rate = (self.rate + grown / seconds) / 2.0;
        }
    }

    /// Takes note that the ring was drained.
    pub(super) fn drained(&mut self) {
        self.seen = 0;
    }

    /// Whether the ring is to be drained now.
    pub(super) fn is_due(&self) -> bool {
        self.left() <= self.rate * SHORTEST.as_secs_f64()
    }

    /// How long the ring may be left alone.
    pub(super) fn next_look(&self) -> Duration {
        // Half of the time that is left, so that a writer twice as fast is still caught.
        let seconds = self.left() / self.rate.max(f64::MIN_POSITIVE) / 2.0;
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
    }

    /// Entries until three quarters of the room are used.
    fn left(&self) -> f64 {
        f64::from((self.room / 4 * 3).saturating_sub(self.seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer of `rate` entries a second into a ring of `size`, looked at as the pace says: how often in `seconds`
    /// the writer found the ring full and waited, and how often the ring was drained.
    fn run(size: u32, rate: f64, seconds: f64) -> (u32, u32) {
        let mut pace = Pace::new(size);
        let room = f64::from(pace.room);
        let (mut now, mut pending, mut stalls, mut drains) = (0.0, 0.0, 0, 0);
        while now < seconds {
            let until_full = Duration::from_secs_f64(f64::min((room - pending) / rate, 1e6));
            let wait = pace.next_look().min(until_full);
            let is_stall = wait == until_full;
            now += wait.as_secs_f64();
            pending += rate * wait.as_secs_f64();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and not negative"
            )]
            pace.observe(pending as u32, wait);
            if is_stall || pace.is_due() {
                pending = 0.0;
                pace.drained();
                drains += 1;
                stalls += u32::from(is_stall);
            }
        }
        (stalls, drains)
    }

    #[test]
    fn a_steady_writer_does_not_wait() {
        for rate in [1e-3, 10.0, 1e3, 1e5, 3e5] {
            assert_eq!(run(65536, rate, 10.0).0, 0, "{rate} entries a second");
        }
    }

    #[test]
    fn a_writer_too_fast_to_foresee_waits_once() {
        assert!(run(65536, 3e6, 10.0).0 <= 1);
        assert!(run(256, 2e4, 10.0).0 <= 1);
    }

    #[test]
    fn drains_are_as_rare_as_the_ring_allows() {
        // 600,000 entries through three quarters of 64,960.
        let (_, drains) = run(65536, 1e4, 60.0);
        assert!((10..=20).contains(&drains), "{drains} drains");
        assert_eq!(run(65536, 10.0, 60.0).1, 0);
    }
}
