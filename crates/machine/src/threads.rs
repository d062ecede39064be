//! The threads that run vCPUs.

mod entered;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmark_track::RingFull;

use self::entered::Entered;

use crate::cpu::{Cpu, CpuError, End, Opaque, Return, Wiring};
use crate::gate::{Gate, Pass, StopTimeout};
use crate::machine::RunError;
use crate::platform::PlatformError;

/// How long a stop waits for vCPUs. A kick takes microseconds; a vCPU behind a drain of its ring, milliseconds.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Makes one vCPU leave the guest; may be called from any thread at any time.
pub(crate) type Kick = Box<dyn Fn() + Send + Sync>;

/// The dirty ring of one vCPU; without rings nothing is ever full, and no vCPU is held to a rate.
#[derive(Clone)]
pub(crate) struct VcpuRing(Option<RingFull>);

impl VcpuRing {
    pub(crate) const fn new(ring: Option<RingFull>) -> Self {
        Self(ring)
    }

    /// Has the full ring drained, and returns when there is room again.
    fn drain(&self) -> Result<(), String> {
        self.0.as_ref().map_or(Ok(()), |ring| ring.drain().map(drop).map_err(|e| e.to_string()))
    }

    /// Waits while the vCPU has written more than a throttle lets it.
    fn rest(&self) {
        if let Some(ring) = &self.0 {
            ring.rest();
        }
    }

    /// Ends such a wait.
    pub(crate) fn wake(&self) {
        if let Some(ring) = &self.0 {
            ring.wake();
        }
    }

    /// Tells a throttle how the vCPU is made to leave the guest.
    pub(crate) fn kick_with(&self, kick: Kick) {
        if let Some(ring) = &self.0 {
            ring.kick_with(kick);
        }
    }
}

/// One vCPU with what its thread needs.
pub(crate) struct Seat {
    /// The vCPU.
    pub cpu: Box<dyn Cpu>,
    /// Makes it leave the guest.
    pub kick: Kick,
    /// Its dirty ring.
    pub ring: VcpuRing,
}

/// A vCPU's state cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the state of vCPU {vcpu} cannot be read: {what}")]
pub(crate) struct CpuStateError {
    vcpu: usize,
    what: String,
}

/// How the machine ended, or nothing while it lives.
#[derive(Debug, Default)]
struct Outcome {
    ended: Mutex<Option<Result<End, RunError>>>,
    changed: Condvar,
}

type SharedCpu = Arc<Mutex<Box<dyn Cpu>>>;

/// All vCPU threads of a machine.
///
/// A thread holds its vCPU's lock exactly while it runs the guest; parked at the gate it does not. So whoever has closed
/// the gate may lock every vCPU and save its state, and nothing else may.
pub(crate) struct CpuThreads {
    gate: Arc<Gate>,
    cpus: Vec<SharedCpu>,
    kicks: Arc<Vec<Kick>>,
    outcome: Arc<Outcome>,
    entered: Arc<Entered>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl CpuThreads {
    /// Starts a thread for each seat; all wait at the closed gate.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub(crate) fn start(seats: Vec<Seat>) -> std::io::Result<Self> {
        let gate = Arc::new(Gate::closed(seats.len()));
        let outcome = Arc::new(Outcome::default());
        let entered = Arc::new(Entered::default());
        let (mut cpus, mut kicks, mut rings) = (Vec::new(), Vec::new(), Vec::new());
        for seat in seats {
            cpus.push(Arc::new(Mutex::new(seat.cpu)));
            kicks.push(seat.kick);
            rings.push(seat.ring);
        }
        let threads =
            Self { gate, cpus, kicks: Arc::new(kicks), outcome, entered, handles: Mutex::new(Vec::new()) };
        for (index, ring) in rings.into_iter().enumerate() {
            let thread = CpuThread {
                cpu: Arc::clone(&threads.cpus[index]),
                gate: Arc::clone(&threads.gate),
                kicks: Arc::clone(&threads.kicks),
                outcome: Arc::clone(&threads.outcome),
                entered: Arc::clone(&threads.entered),
                index,
                ring,
            };
            let handle = thread::Builder::new().name(format!("vcpu{index}")).spawn(move || thread.run())?;
            lock(&threads.handles).push(handle);
        }
        Ok(threads)
    }

    /// Stops every vCPU. On return none runs guest code or is inside the hypervisor.
    ///
    /// # Errors
    /// If one does not come back in time; then none is stopped.
    pub(crate) fn stop(&self) -> Result<(), StopTimeout> {
        self.gate.close(STOP_LIMIT, || kick_all(&self.kicks))
    }

    /// Lets every vCPU run.
    pub(crate) fn resume(&self) {
        self.gate.open();
    }

    /// When the first vCPU entered the guest, which is waited for as long as `limit`.
    pub(crate) fn entered(&self, limit: Duration) -> Option<Instant> {
        self.entered.wait(limit)
    }

    /// Saves every vCPU's state. The gate must be closed; a vCPU that runs is waited for.
    ///
    /// # Errors
    /// If the hypervisor refuses.
    pub(crate) fn save(&self) -> Result<Vec<Opaque>, CpuStateError> {
        let save =
            |(vcpu, cpu): (usize, &SharedCpu)| lock(cpu).save().map_err(|what| CpuStateError { vcpu, what });
        self.cpus.iter().enumerate().map(save).collect()
    }

    /// Puts back every vCPU's state, with memory in place. None has run.
    ///
    /// # Errors
    /// If there are more states or fewer, or the hypervisor refuses one.
    pub(crate) fn load(&self, states: &[Opaque], wiring: Wiring) -> Result<(), PlatformError> {
        if states.len() != self.cpus.len() {
            let what = format!("it has {} vCPUs instead of {}", states.len(), self.cpus.len());
            return Err(PlatformError::State { part: "the machine".into(), what });
        }
        self.cpus.iter().zip(states).try_for_each(|(cpu, state)| lock(cpu).load(state, wiring))
    }

    /// How many vCPUs there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.cpus.len()).unwrap_or(u32::MAX)
    }

    /// How the machine ended, if it has.
    #[must_use]
    pub(crate) fn outcome(&self) -> Option<Result<End, RunError>> {
        lock(&self.outcome.ended).clone()
    }

    /// Waits until the machine has ended.
    ///
    /// # Errors
    /// If it ended because a vCPU could not go on.
    pub(crate) fn wait(&self) -> Result<End, RunError> {
        let mut ended = lock(&self.outcome.ended);
        loop {
            if let Some(outcome) = ended.clone() {
                return outcome;
            }
            ended = self.outcome.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the machine because its guest runs on another host.
    pub(crate) fn leave(&self) {
        self.ender().end(Ok(End::Left));
    }

    /// Ends the machine from outside.
    pub(crate) fn end(&self) {
        self.ender().end(Ok(End::Stopped));
    }

    /// What ends the machine, to be kept by whoever may have to.
    pub(crate) fn ender(&self) -> Ender {
        Ender {
            outcome: Arc::clone(&self.outcome),
            gate: Arc::clone(&self.gate),
            kicks: Arc::clone(&self.kicks),
        }
    }
}

/// Ends a machine, from any thread.
pub(crate) struct Ender {
    outcome: Arc<Outcome>,
    gate: Arc<Gate>,
    kicks: Arc<Vec<Kick>>,
}

impl Ender {
    /// Ends the machine with `outcome`, unless it has ended. On return no vCPU enters the guest any more, and each that is in
    /// it was told to leave.
    pub(crate) fn end(&self, outcome: Result<End, RunError>) {
        self.outcome.set(outcome);
        self.gate.end(|| kick_all(&self.kicks));
    }
}

impl Drop for CpuThreads {
    fn drop(&mut self) {
        self.end();
        for handle in lock(&self.handles).drain(..) {
            // A thread that panicked has said so; there is nothing left to undo here.
            let _ = handle.join();
        }
    }
}

impl fmt::Debug for CpuThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuThreads").field("gate", &self.gate).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kick_all(kicks: &[Kick]) {
    kicks.iter().for_each(|kick| kick());
}

impl Outcome {
    /// The first outcome stays.
    fn set(&self, outcome: Result<End, RunError>) {
        lock(&self.ended).get_or_insert(outcome);
        self.changed.notify_all();
    }
}

/// What one thread owns. Dropping it is the thread's leave, also where it panics: a stop must not wait for it.
struct CpuThread {
    cpu: SharedCpu,
    gate: Arc<Gate>,
    kicks: Arc<Vec<Kick>>,
    outcome: Arc<Outcome>,
    entered: Arc<Entered>,
    index: usize,
    ring: VcpuRing,
}

impl CpuThread {
    fn run(self) {
        let ended = self.guest_loop();
        if let Some(outcome) = ended {
            self.outcome.set(outcome);
            self.gate.end(|| kick_all(&self.kicks));
        }
    }

    fn guest_loop(&self) -> Option<Result<End, RunError>> {
        let mut entered = false;
        loop {
            // Before the gate: whoever stops the vCPU wakes it, and finds it there.
            self.ring.rest();
            if self.gate.pass() == Pass::End {
                return None;
            }
            if !std::mem::replace(&mut entered, true) {
                self.entered.note();
            }
            let returned = lock(&self.cpu).run();
            match returned {
                Ok(Return::Kicked) => {}
                Ok(Return::RingFull) => {
                    if let Err(what) = self.ring.drain() {
                        let vcpu = u32::try_from(self.index).unwrap_or(u32::MAX);
                        return Some(Err(CpuError { vcpu, what }.into()));
                    }
                }
                Ok(Return::End(end)) => return Some(Ok(end)),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

impl Drop for CpuThread {
    fn drop(&mut self) {
        if thread::panicking() {
            let vcpu = u32::try_from(self.index).unwrap_or(u32::MAX);
            self.outcome.set(Err(CpuError { vcpu, what: "its thread panicked".into() }.into()));
            self.gate.end(|| kick_all(&self.kicks));
        }
        self.gate.leave();
    }
}
