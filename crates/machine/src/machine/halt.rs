//! Stopping a machine for a cut: first what writes beside the vCPUs, then the vCPUs.

use std::sync::MutexGuard;

use ringmark_track::{BoxError, Vcpus};

use super::{Machine, RunState};
use crate::cpu::{CpuError, Opaque};
use crate::platform::{PlatformError, PlatformSaved};

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

    /// vCPUs first, since completing their last exits and reading their state may write memory; then the platform, whose
    /// interrupt controller writes its tables.
    pub(crate) fn save(&mut self) -> Result<(Vec<Opaque>, PlatformSaved), SaveError> {
        let cpus = self.machine.threads.save()?;
        let platform = self.machine.platform.save()?;
        Ok((cpus, platform))
    }
}

/// State could not be saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error(transparent)]
    Cpu(#[from] CpuError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl Vcpus for Halt<'_> {
    fn stop(&mut self) -> Result<(), BoxError> {
        let machine = self.machine;
        self.run_state = Some(machine.lock_run_state());
        // Before the vCPUs: a writer that goes on after them would write into a state that is being saved.
        self.quiet = machine.clock.as_ref().map(crate::clock::Clock::quiesce);
        machine.ended()?;
        Ok(machine.threads.stop()?)
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.quiet = None;
        let paused = self.run_state.take().is_some_and(|state| *state == RunState::Paused);
        if !paused {
            self.machine.threads.resume();
        }
        Ok(())
    }
}
