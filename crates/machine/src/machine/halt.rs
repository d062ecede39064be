//! Stopping a machine for a cut: first what writes beside the vCPUs, then the vCPUs.

use std::sync::MutexGuard;

use ringmark_track::{BoxError, Vcpus};

use super::{Machine, RunState};
use crate::cpu::Opaque;
use crate::devices::SerialSaved;
use crate::platform::{PlatformError, PlatformSaved};
use crate::threads::CpuStateError;

/// A machine on its way through a cut.
///
/// The run state is held from stop to resume: what the operator asks meanwhile is done afterwards.
pub(crate) struct Halt<'m> {
    machine: &'m Machine,
    run_state: Option<MutexGuard<'m, RunState>>,
    quiet: Option<MutexGuard<'m, bool>>,
}

impl<'m> Halt<'m> {
    pub(crate) fn new(machine: &'m Machine) -> Self {
        Self { machine, run_state: None, quiet: None }
    }

    /// Whether the guest stood still before, as its operator had asked.
    pub(crate) fn is_paused(&self) -> bool {
        self.run_state.as_deref() == Some(&RunState::Paused)
    }

    /// Leaves the guest where it stands: it runs on another host, or it may (`undecided`). What the operator has asked for
    /// meanwhile finds that out.
    pub(crate) fn hand_over(mut self, undecided: bool) {
        if let Some(mut state) = self.run_state.take() {
            *state = RunState::Undecided;
        }
        if !undecided {
            self.machine.threads.leave();
        }
    }

    /// Devices before vCPUs: an interrupt on its way is then in the state of the controller that it has left or in that of
    /// the local one that it has reached, or in both, but never in neither. All of it may write guest memory.
    pub(crate) fn save(&mut self) -> Result<Saved, SaveError> {
        let serial = self.machine.ports().serial().save();
        let platform = self.machine.platform.save()?;
        let cpus = self.machine.threads.save()?;
        Ok(Saved { cpus, platform, serial })
    }
}

/// What a machine is beside its memory.
pub(crate) struct Saved {
    pub(crate) cpus: Vec<Opaque>,
    pub(crate) platform: PlatformSaved,
    pub(crate) serial: SerialSaved,
}

/// State could not be saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error(transparent)]
    Cpu(#[from] CpuStateError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl Vcpus for Halt<'_> {
    fn stop(&mut self) -> Result<(), BoxError> {
        let machine = self.machine;
        self.run_state = Some(machine.lock_run_state());
        // Before the vCPUs: a writer that goes on after them would write into a state that is being saved.
        self.quiet = machine.clock.as_ref().map(crate::clock::Clock::quiesce);
        machine.threads.stop()?;
        // A guest that ended has left the gate, and what it left behind is no state to go on from.
        Ok(machine.ended()?)
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.quiet = None;
        let stays = self.run_state.take().is_some_and(|state| *state != RunState::Running);
        if !stays {
            self.machine.threads.resume();
        }
        Ok(())
    }
}
