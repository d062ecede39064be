//! Stopping the guest, and making sure that it runs again.

use std::fmt;

use crate::{BoxError, Event, EventLog};

/// Whatever can stop and resume the vCPUs of the guest.
pub trait Vcpus {
    /// Brings every vCPU out of the guest, and returns when each has *returned* from `KVM_RUN`: only that guarantees
    /// that what the processor and the kernel hold back has reached the log.
    ///
    /// # Errors
    /// Some may be stopped then; [`resume`](Self::resume) follows.
    fn stop(&mut self) -> Result<(), BoxError>;

    /// Lets every stopped vCPU enter the guest again. Called after a failed [`stop`](Self::stop) too, and perhaps with
    /// none stopped.
    ///
    /// # Errors
    /// The guest counts as stopped then.
    fn resume(&mut self) -> Result<(), BoxError>;
}

impl<V: Vcpus + ?Sized> Vcpus for &mut V {
    fn stop(&mut self) -> Result<(), BoxError> {
        (**self).stop()
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        (**self).resume()
    }
}

/// What the guest is doing after a cut has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// It runs on.
    Running,
    /// It stands still: resuming it failed as well.
    Stopped {
        /// What resuming it failed with.
        error: String,
    },
}

impl fmt::Display for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("the guest runs on"),
            Self::Stopped { error } => write!(f, "the guest is stopped and could not be resumed ({error})"),
        }
    }
}

/// vCPUs that are stopped, or about to be: dropped, it resumes them.
pub(super) struct Halted<V: Vcpus> {
    vcpus: V,
    events: EventLog,
    halted: bool,
}

impl<V: Vcpus> Halted<V> {
    /// Counts as stopped from the start: a stop that fails half-way leaves some vCPUs stopped.
    pub(super) const fn new(vcpus: V, events: EventLog) -> Self {
        Self { vcpus, events, halted: true }
    }

    pub(super) fn stop(&mut self) -> Result<(), BoxError> {
        self.vcpus.stop()
    }

    pub(super) const fn vcpus(&mut self) -> &mut V {
        &mut self.vcpus
    }

    pub(super) fn resume(&mut self) -> Result<(), BoxError> {
        self.vcpus.resume()?;
        self.halted = false;
        Ok(())
    }

    /// Leaves the guest stopped.
    pub(super) fn keep(mut self) {
        self.halted = false;
    }

    /// Resumes the guest, and says whether it runs.
    pub(super) fn release(&mut self) -> GuestState {
        self.halted = false;
        match self.vcpus.resume() {
            Ok(()) => GuestState::Running,
            Err(error) => {
                let error = error.to_string();
                self.events.push(Event::NotResumed { error: error.clone() });
                GuestState::Stopped { error }
            }
        }
    }
}

impl<V: Vcpus> Drop for Halted<V> {
    fn drop(&mut self) {
        if self.halted {
            self.release();
        }
    }
}

impl<V: Vcpus> fmt::Debug for Halted<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halted").field("halted", &self.halted).finish_non_exhaustive()
    }
}
