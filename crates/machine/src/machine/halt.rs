//! Stopping a machine for a cut: first what writes beside the vCPUs, then the vCPUs.

use std::sync::MutexGuard;

use ringmark_track::{BoxError, Vcpus};

use super::{Machine, PauseError, RunState};
use crate::clock::Pulse;
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
    quiet: Option<MutexGuard<'m, Pulse>>,
}

impl<'m> Halt<'m> {
    pub(crate) fn new(machine: &'m Machine) -> Self {
        Self { machine, run_state: None, quiet: None }
    }

    /// Whether the guest stood still before, as its operator had asked.
    pub(crate) fn is_paused(&self) -> bool {
        self.run_state.as_deref() == Some(&RunState::Paused)
    }

    /// Leaves the guest where it stands: it runs on another host, or it may (`undecided`), and perhaps with this very memory,
    /// which nothing writes here any more. What the operator has asked for meanwhile finds that out.
    pub(crate) fn hand_over(mut self, undecided: bool) {
        if let Some(mut pulse) = self.quiet.take() {
            *pulse = Pulse::Holds;
        }
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
        // Held also if it fails: whoever resumes then looks at it.
        let state = self.run_state.insert(machine.lock_run_state());
        if **state == RunState::Undecided {
            return Err(PauseError::Undecided.into());
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where anything fails")]
mod tests {
    use std::time::Duration;
    use std::{io, thread};

    use ringmark_guest::Pattern;
    use ringmark_migrate::receive::Decision;
    use ringmark_track::{Audit, Wish};

    use super::*;
    use crate::config::{Boot, GuestSpec, MachineConfig};
    use crate::platform::HypervisorWish;

    /// Neither the vCPUs nor the clock writes, until it is decided that the guest runs here; and nothing stops it again.
    #[test]
    fn memory_is_left_alone_while_the_guest_may_run_elsewhere() {
        let config = MachineConfig {
            name: "handed-over".into(),
            memory: 16 << 20,
            vcpus: 1,
            its: 0,
            hypervisor: HypervisorWish::Engine,
            tracking: Wish::Auto,
            boot: Boot::Guest(GuestSpec { pattern: Pattern::Uniform, hot: 1 << 20, pace: 0, seed: 1 }),
            audit: None,
        };
        let machine = Machine::create(config, Box::new(io::sink())).unwrap();
        machine.resume().unwrap();
        let mut halt = Halt::new(&machine);
        halt.stop().unwrap();
        halt.hand_over(true);
        let digest = || Audit::begin(machine.ram.slots(), &machine.ram).unwrap().digest().unwrap();
        let before = digest();
        let mut again = Halt::new(&machine);
        assert!(again.stop().is_err(), "what may be another's is no state to capture");
        again.resume().unwrap();
        drop(again);
        // Several of the clock's periods.
        thread::sleep(Duration::from_millis(60));
        assert_eq!(digest(), before, "memory was written though the guest may run elsewhere");
        machine.decide(Decision::Run).unwrap();
        let (clock, pulse) = (machine.clock.as_ref().unwrap(), Pulse::Ticks);
        assert_eq!(*clock.quiesce(), pulse);
        while digest() == before {
            thread::yield_now();
        }
    }
}
