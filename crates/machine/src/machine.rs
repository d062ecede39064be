//! A machine: memory, vCPUs, devices and the tracker that watches them.

pub(crate) mod blank;
mod check;
mod create;
mod error;
pub(crate) mod frame;
mod halt;
mod placement;
mod reports;
mod restore;
mod seats;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_guest::{Config, Status};
use ringmark_image::ImageId;
use ringmark_migrate::receive::Decision;
use ringmark_migrate::send::Resumable;
use ringmark_track::{Advisor, Audit, AuditRate, Chosen, Event, EventLog, Tracker};

use crate::checkpoint::CrossCheck;
use crate::clock::{Clock, Pulse};
use crate::cpu::End;
use crate::devices::Ports;
use crate::gate::StopTimeout;
use crate::lazy::{self, LoadError};
use crate::platform::{Hypervisor, Platform};
use crate::ram::Ram;
use crate::stage::Stage;
use crate::threads::CpuThreads;
use crate::words::RamWords;

pub use check::{CheckError, CheckReport};
pub use error::{CreateError, RestoreError, RunError};
pub(crate) use halt::Halt;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use restore::blueprint_of;
pub use restore::{Loading, RestoreOptions};
pub(crate) use restore::{layout_for, working_set_of};

/// A machine that runs, or is stopped between two instructions.
///
/// # Who holds what
/// * vCPU threads hold their vCPU while they run it, and a handle to the tracker's collector; nothing else.
/// * [`run_state`](Self) is held by whoever stops or resumes the guest, and by a checkpoint from its stop to its resume,
///   so a pause asked for by the operator never comes between the two.
/// * The tracker and what belongs to checkpoints are under one lock, held for the whole of a checkpoint: there is one at a
///   time, and a second one is refused, not queued.
///
/// Lock order: checkpoints or checking, then run state, then the clock.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: no thread may touch memory or VM after they are gone.
    clock: Option<Clock>,
    pub(crate) threads: CpuThreads,
    pub(crate) checkpoints: Mutex<Checkpoints>,
    platform: Platform,
    ports: Arc<Ports>,
    /// After everything that may wait for a page.
    loading: Option<lazy::Loading>,
    pub(crate) ram: Ram,
    facts: Facts,
    run_state: Mutex<RunState>,
    events: EventLog,
    guest: Option<Config>,
    /// One check at a time: all programs look at one control word.
    checking: Mutex<()>,
    pub(crate) checkpoint_running: AtomicBool,
    pub(crate) migration_running: AtomicBool,
    pub(crate) prediction_running: AtomicBool,
    started: Instant,
}

/// What does not change in a machine's life.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The machine's name.
    pub name: String,
    /// Which hypervisor runs it.
    pub hypervisor: Hypervisor,
    /// Why that one.
    pub hypervisor_why: String,
    /// How its writes are tracked, and why so.
    pub tracking: Chosen,
    /// vCPUs.
    pub vcpus: u32,
    /// Bytes of guest memory.
    pub memory: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// The image it was restored from.
    pub restored_from: Option<ImageId>,
    /// The share of memory that every cut is audited by.
    pub audit: Option<AuditRate>,
}

/// What the operator asked of the vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// They run, except in the pause of a checkpoint.
    Running,
    /// They stand still until they are resumed.
    Paused,
    /// They stand still because the guest may run on another host: until somebody [decides](Machine::decide).
    Undecided,
}

/// What checkpoints keep from one to the next.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(crate) tracker: Tracker,
    pub(crate) stage: Stage,
    /// The image that the next increment goes on from.
    pub(crate) newest: Option<Newest>,
    /// The share of memory that every cut is audited by.
    pub(crate) audited: Option<AuditRate>,
    pub(crate) audit: Option<Audit>,
    pub(crate) advisor: Advisor,
    /// Why stand-alone bitmaps would cost this machine less, as an earlier run or this one found: images carry it.
    pub(crate) bitmaps_advised: Option<String>,
    /// What the guest wrote in the last epoch.
    pub(crate) written_before: Option<DirtyPages>,
    pub(crate) check: Option<CrossCheck>,
    /// What a migration whose link was cut left, to be gone on from.
    pub(crate) resumable: Option<Box<Resumable>>,
}

impl Checkpoints {
    /// Pages were written and in no log: perhaps they are not protected, so that writes to them are in none from here on either.
    /// Only what begins anew is trustworthy, with every page protected.
    pub(crate) fn mistrust(&mut self) {
        self.newest = None;
        self.resumable = None;
        if let Err(error) = self.tracker.disarm() {
            tracing::warn!(%error, "tracking could not be ended cleanly; it begins anew");
        }
    }
}

/// An image and the store it is in: an increment needs its parent beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) image: ImageId,
    /// Its path or URL.
    pub(crate) store: String,
}

/// The guest could not be stopped or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// Some vCPU did not leave the guest.
    #[error(transparent)]
    Stop(#[from] StopTimeout),
    /// The machine is no more.
    #[error("the machine has ended; there is no guest to stop or resume")]
    Ended,
    /// It may run elsewhere.
    #[error(
        "the guest was being handed over and may run at the destination, which cannot be asked; it stands still here"
    )]
    Undecided,
}

/// There is nothing to decide.
#[derive(Debug, thiserror::Error)]
#[error("no migration of this machine is undecided: its guest {0}")]
pub struct NotUndecided(&'static str);

impl Machine {
    /// What does not change in the machine's life.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Guest memory.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The devices that answer at ports, the console among them.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// When the machine was made in this process.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether the vCPUs run or were paused.
    #[must_use]
    pub fn run_state(&self) -> RunState {
        *self.lock_run_state()
    }

    /// Whether a checkpoint is being taken.
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        self.checkpoint_running.load(Ordering::Relaxed)
    }

    /// What the tracker had to report since this was last asked: each event is a hazard that was contained.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        self.events.take()
    }

    /// Stops every vCPU; a machine that is paused stays so.
    ///
    /// # Errors
    /// If a vCPU does not leave the guest, or the machine has ended.
    pub fn pause(&self) -> Result<(), PauseError> {
        self.ended()?;
        let mut state = self.lock_run_state();
        if *state == RunState::Running {
            self.threads.stop()?;
            *state = RunState::Paused;
        }
        if *state == RunState::Undecided { Err(PauseError::Undecided) } else { Ok(()) }
    }

    /// Lets every vCPU run; a machine that runs goes on.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn resume(&self) -> Result<(), PauseError> {
        self.ended()?;
        let mut state = self.lock_run_state();
        if *state == RunState::Undecided {
            return Err(PauseError::Undecided);
        }
        *state = RunState::Running;
        self.threads.resume();
        Ok(())
    }

    /// When the first vCPU entered the guest, which is waited for as long as `limit`.
    pub(crate) fn entered(&self, limit: Duration) -> Option<Instant> {
        self.threads.entered(limit)
    }

    /// A person who has looked at the destination says what becomes of a guest that stands still because it may run there:
    /// with [`Decision::Run`] it runs on here, else this machine ends.
    ///
    /// # Errors
    /// If nothing is undecided.
    pub fn decide(&self, decision: Decision) -> Result<(), NotUndecided> {
        let mut state = self.lock_run_state();
        if self.threads.outcome().is_some() {
            return Err(NotUndecided("has ended"));
        }
        match (*state, decision) {
            (RunState::Undecided, Decision::Run) => {
                *state = RunState::Running;
                if let Err(error) = blank::work(&self.ram, self.guest.as_ref()) {
                    tracing::warn!(%error, "the guest cannot be told to end a check that was under way");
                }
                if let Some(clock) = &self.clock {
                    *clock.quiesce() = Pulse::Ticks;
                }
                self.threads.resume();
            }
            (RunState::Undecided, Decision::Discard) => self.threads.leave(),
            (RunState::Running, _) => return Err(NotUndecided("runs")),
            (RunState::Paused, _) => return Err(NotUndecided("is paused")),
        }
        Ok(())
    }

    fn ended(&self) -> Result<(), PauseError> {
        self.threads.outcome().map_or(Ok(()), |_| Err(PauseError::Ended))
    }

    /// How the machine ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<End, RunError>> {
        self.threads.outcome()
    }

    /// Waits until the guest has ended, or [`end`](Self::end) was called.
    ///
    /// # Errors
    /// If a vCPU could not go on.
    pub fn wait(&self) -> Result<End, RunError> {
        self.threads.wait()
    }

    /// Ends the machine from outside.
    pub fn end(&self) {
        self.threads.end();
        // Nobody waits for a slow store to let a machine go that is no more.
        if let Some(loading) = &self.loading {
            loading.arrival().abandon();
        }
    }

    /// Pages that the built-in guest's vCPUs have written; `None` for a kernel of the operator's.
    #[must_use]
    pub fn pages_written(&self) -> Option<u64> {
        let config = self.guest.as_ref()?;
        let written = |writer| Status::load(&mut RamWords(&self.ram), config, writer).map(|s| s.written);
        (0..config.writers).map(written).sum::<Result<u64, _>>().ok()
    }

    /// Waits until every page of a lazily restored machine is there; the guest runs on meanwhile.
    ///
    /// # Errors
    /// A page that cannot be had, or the machine's end.
    pub fn wait_until_whole(&self) -> Result<(), LoadError> {
        self.ram.wait_until_whole()
    }

    /// From here on a page that cannot be had ends the machine; and those that nobody waits for come, too.
    fn ends_without_its_memory(&self) -> Result<(), LoadError> {
        let Some(loading) = &self.loading else { return Ok(()) };
        let ender = self.threads.ender();
        loading.arrival().ends_by(Box::new(move |error| ender.end(Err(error.into()))))?;
        loading.begin();
        Ok(())
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// What checkpoints, migrations and predictions need alone; `None` while one of them is under way.
    pub(crate) fn try_lock_checkpoints(&self) -> Option<MutexGuard<'_, Checkpoints>> {
        match self.checkpoints.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => {
                // One of them panicked. Its pages are back with the tracker; of the rest nothing is taken for granted.
                self.checkpoints.clear_poison();
                let mut state = poisoned.into_inner();
                state.newest = None;
                state.resumable = None;
                Some(state)
            }
        }
    }

    fn lock_run_state(&self) -> MutexGuard<'_, RunState> {
        self.run_state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}
