//! One vCPU's brake.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A vCPU that is ahead of its quota by less than this is not worth a kick.
const AHEAD: Duration = Duration::from_millis(2);
/// The longest rest at a time where the monitor knows of none.
const SHORT_REST: Duration = Duration::from_millis(5);
/// No quota is lower: a vCPU goes on, however slowly.
const LEAST: f64 = 20.0;
/// One that comes this near to its quota would write more without it.
const HELD_BACK: f64 = 0.8;

/// Keeps one vCPU to its quota.
pub(crate) struct Brake {
    vcpu: u32,
    state: Mutex<State>,
    changed: Condvar,
    rested: AtomicU64,
    kick: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct State {
    quota: Option<f64>,
    /// When everything that was written would have been written at the quota.
    paid_until: Instant,
    /// Pages that were paid for, counted like `Brake::charge`'s, and when.
    charged: u64,
    charged_at: Instant,
    /// When the pages since were begun to be counted, and from which count on.
    measured: (Instant, u64),
    /// A stop is under way.
    suspended: bool,
    /// Somebody wants the vCPU back.
    woken: bool,
}

impl Brake {
    pub(crate) fn new(vcpu: u32) -> Self {
        let now = Instant::now();
        let state = State {
            quota: None,
            paid_until: now,
            charged: 0,
            charged_at: now,
            measured: (now, 0),
            suspended: false,
            woken: false,
        };
        Self {
            vcpu,
            state: Mutex::new(state),
            changed: Condvar::new(),
            rested: AtomicU64::new(0),
            kick: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn vcpu(&self) -> u32 {
        self.vcpu
    }

    pub(super) fn quota(&self) -> Option<f64> {
        self.lock().quota
    }

    pub(super) fn rested(&self) -> Duration {
        Duration::from_nanos(self.rested.load(Ordering::Relaxed))
    }

    pub(super) fn measure(&self) {
        let mut state = self.lock();
        state.measured = (Instant::now(), state.charged);
    }

    /// Pages a second that it writes, or would if it were let.
    pub(super) fn demand(&self) -> f64 {
        let state = self.lock();
        let (since, count) = state.measured;
        let pages = state.charged.saturating_sub(count);
        let rate = pages as f64 / since.elapsed().as_secs_f64().max(1e-6);
        match state.quota {
            Some(quota) if rate >= quota * HELD_BACK => f64::INFINITY,
            _ => rate,
        }
    }

    pub(super) fn set_quota(&self, quota: Option<f64>) {
        let mut state = self.lock();
        if state.quota.is_none() || quota.is_none() {
            state.paid_until = Instant::now();
        }
        state.quota = quota.map(|quota| quota.max(LEAST));
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn suspend(&self, suspended: bool) {
        let mut state = self.lock();
        state.suspended = suspended;
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn kick_with(&self, kick: Box<dyn Fn() + Send + Sync>) {
        // The first one stays: a vCPU has one thread, which was announced when it was created.
        let _ = self.kick.set(kick);
    }

    /// The vCPU has written `count` pages so far; whether it is so far ahead of its quota that it is to leave the guest.
    fn charge(&self, count: u64) -> bool {
        let mut state = self.lock();
        let pages = count.saturating_sub(state.charged);
        state.charged = state.charged.max(count);
        let now = Instant::now();
        let since = std::mem::replace(&mut state.charged_at, now);
        let Some(quota) = state.quota else { return false };
        let cost = Duration::try_from_secs_f64(pages as f64 / quota).unwrap_or(Duration::MAX);
        // What was not used by the last time is not saved up.
        let from = state.paid_until.max(since);
        state.paid_until = from.checked_add(cost).unwrap_or(from);
        !state.suspended && state.paid_until > now + AHEAD
    }

    /// As [`charge`](Self::charge), and kicks the vCPU if it is far ahead.
    pub(crate) fn watch(&self, count: u64) {
        if self.charge(count)
            && let Some(kick) = self.kick.get()
        {
            kick();
        }
    }

    /// The vCPU's thread waits until its quota has caught up with what it wrote.
    pub(crate) fn rest(&self) {
        self.rest_until(None);
    }

    /// The same for a monitor that may not know how to wake it.
    pub(crate) fn rest_shortly(&self) {
        self.rest_until(Instant::now().checked_add(SHORT_REST));
    }

    fn rest_until(&self, limit: Option<Instant>) {
        let mut state = self.lock();
        if state.quota.is_none() && !state.woken {
            return;
        }
        let begun = Instant::now();
        while state.quota.is_some() && !state.suspended && !state.woken {
            let end = limit.map_or(state.paid_until, |limit| limit.min(state.paid_until));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.woken = false;
        drop(state);
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.rested.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Ends the rest that is under way, or else the next one.
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_all();
    }
}

impl fmt::Debug for Brake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brake")
            .field("vcpu", &self.vcpu)
            .field("quota", &self.quota())
            .finish_non_exhaustive()
    }
}
