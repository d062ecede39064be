//! Slowing down the vCPUs that write most, and no others.

mod brake;
mod fill;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use brake::Brake;
use fill::water_fill;

/// Holds vCPUs to a rate of writing that all of them together are not to exceed; dropped, it lets them go.
///
/// The rate is shared out like water in a vessel with steps: a vCPU that writes less than its share is not touched, and
/// what it leaves is the others'. One that has written more than its share waits, outside the guest, until its
/// share has caught up.
///
/// # Where a vCPU waits
/// * In [`RingFull::drain`](crate::RingFull::drain), after its full ring was drained; for some milliseconds at a time, so that
///   a monitor that knows of no throttle still stops it in time.
/// * In [`RingFull::rest`](crate::RingFull::rest), which its thread calls before it enters the guest, for as long as it takes.
///   A ring that is large or drained often never fills: so the collector looks at the rings every few
///   milliseconds, and [kicks](crate::RingFull::kick_with) a vCPU that owes a rest out of the guest.
///
/// A monitor that does neither slows a vCPU down only as far as its ring fills. With stand-alone bitmaps nobody can say
/// which vCPU wrote, and none is slowed down: [`can_slow`](Self::can_slow) is false.
///
/// # Stopping a vCPU that waits
/// [`Cut::stop`](crate::Cut::stop) wakes every vCPU, and none waits until the cut is over. Who stops vCPUs without a cut calls
/// [`RingFull::wake`](crate::RingFull::wake) where it kicks them.
#[derive(Debug)]
pub struct Throttle {
    brakes: Arc<Brakes>,
    engaged: Option<Instant>,
}

/// What a throttle cost one vCPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slowed {
    /// The vCPU.
    pub vcpu: u32,
    /// How long it waited.
    pub rested: Duration,
    /// That as a share of the time in which the throttle was engaged, from 0 to 1.
    pub share: f64,
    /// Pages a second that it is held to; `None` if it is not touched.
    pub quota: Option<f64>,
}

impl Throttle {
    pub(crate) const fn new(brakes: Arc<Brakes>) -> Self {
        Self { brakes, engaged: None }
    }

    /// Whether there are vCPUs that can be told apart and slowed down.
    #[must_use]
    pub fn can_slow(&self) -> bool {
        !self.brakes.all().is_empty()
    }

    /// Whether a rate is in force.
    #[must_use]
    pub const fn is_engaged(&self) -> bool {
        self.engaged.is_some()
    }

    /// Holds all vCPUs together to `pages` a second, by what each has written since the last call; the first call and whoever
    /// wants a new measurement calls [`measure`](Self::measure) some time before.
    pub fn hold_to(&mut self, pages: f64) {
        let brakes = self.brakes.all();
        let demands: Vec<f64> = brakes.iter().map(|brake| brake.demand()).collect();
        for (brake, quota) in brakes.iter().zip(water_fill(&demands, pages)) {
            brake.set_quota(quota);
        }
        drop(brakes);
        self.engaged.get_or_insert_with(Instant::now);
        self.brakes.engaged.store(true, Ordering::Relaxed);
        self.measure();
    }

    /// Begins to measure what each vCPU writes.
    pub fn measure(&self) {
        self.brakes.all().iter().for_each(|brake| brake.measure());
    }

    /// Lets all vCPUs go; those that wait go on at once.
    pub fn release(&mut self) {
        if self.engaged.take().is_some() {
            self.brakes.engaged.store(false, Ordering::Relaxed);
            self.brakes.all().iter().for_each(|brake| brake.set_quota(None));
        }
    }

    /// What it costs each vCPU, so far.
    #[must_use]
    pub fn cost(&self) -> Vec<Slowed> {
        let time = self.engaged.map_or(0.0, |since| since.elapsed().as_secs_f64());
        let slowed = |brake: &Arc<Brake>| {
            let rested = brake.rested();
            let share = if time > 0.0 { (rested.as_secs_f64() / time).min(1.0) } else { 0.0 };
            Slowed { vcpu: brake.vcpu(), rested, share, quota: brake.quota() }
        };
        self.brakes.all().iter().map(slowed).collect()
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.release();
    }
}

/// The brakes of all vCPUs with rings.
#[derive(Debug, Default)]
pub(crate) struct Brakes {
    all: Mutex<Vec<Arc<Brake>>>,
    engaged: AtomicBool,
}

impl Brakes {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Brake>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, brake: Arc<Brake>) {
        self.all().push(brake);
    }

    pub(crate) fn are_engaged(&self) -> bool {
        self.engaged.load(Ordering::Relaxed)
    }

    /// Wakes every vCPU that waits; none waits until what this returns is dropped.
    pub(crate) fn let_go(self: &Arc<Self>) -> LetGo {
        self.all().iter().for_each(|brake| brake.suspend(true));
        LetGo(Arc::clone(self))
    }
}

/// No vCPU waits while this lives.
#[derive(Debug)]
pub(crate) struct LetGo(Arc<Brakes>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.all().iter().for_each(|brake| brake.suspend(false));
    }
}
