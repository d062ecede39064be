//! Checking a built-in guest: by itself from the inside, and by the monitor from the outside.

use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use ringmark_guest::{Config, Control, Report, check_result, inspect, request_check};
use vm_memory::GuestMemoryError;

use super::{Machine, PauseError, RunState};
use crate::words::RamWords;

/// Between two looks at whether the guest is done.
const POLL: Duration = Duration::from_millis(1);

/// What both checks found.
#[derive(Clone, Copy, Debug)]
pub struct CheckReport {
    /// What the guest's programs found in their own pages.
    pub guest: Report,
    /// What the monitor found in all certificates, with the guest stopped.
    pub memory: Report,
}

/// Why a check came to no result.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A kernel of the operator's certifies nothing.
    #[error("only built-in guests certify their pages; this machine runs a kernel of its own")]
    NoCertificates,
    /// A paused guest checks nothing.
    #[error("the guest is paused; resume it, so that it can check itself")]
    Paused,
    /// The guest did not finish.
    #[error("the guest did not finish its check within {0:?}; it runs on")]
    Timeout(Duration),
    /// The guest could not be stopped, or is no more.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// Guest memory could not be read.
    #[error("guest memory cannot be read: {0}")]
    Memory(#[from] GuestMemoryError),
}

impl Machine {
    /// Lets the guest check every page it has certified, then stops it and checks the same from outside; it runs on
    /// afterwards.
    ///
    /// # Errors
    /// Where there is no result; damage that was found is a result.
    pub fn check(&self, limit: Duration) -> Result<CheckReport, CheckError> {
        let config = self.guest.as_ref().ok_or(CheckError::NoCertificates)?;
        let _one = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.ask_for_check(config)?;
        let checked = self.wait_for_check(config, number, limit);
        let memory = checked.is_ok().then(|| self.inspect(config)).transpose();
        self.withdraw_check(config)?;
        Ok(CheckReport { guest: checked?, memory: memory?.unwrap_or_default() })
    }

    /// Checks the certificates in memory from outside, without the guest's help; it runs on afterwards as it did before.
    ///
    /// # Errors
    /// Where there is no result.
    pub fn check_memory(&self) -> Result<Report, CheckError> {
        self.inspect(self.guest.as_ref().ok_or(CheckError::NoCertificates)?)
    }

    /// Guest-physical addresses of the region that the built-in guest certifies.
    #[must_use]
    pub fn hot_region(&self) -> Option<std::ops::Range<u64>> {
        self.guest.map(|config| config.hot..config.hot + config.hot_bytes())
    }

    pub(crate) fn guest_config(&self) -> Option<&Config> {
        self.guest.as_ref()
    }

    /// Under the lock of the run state, so that no cut comes between write and mark.
    fn ask_for_check(&self, config: &Config) -> Result<u64, CheckError> {
        let state = self.lock_run_state();
        match *state {
            RunState::Running => {}
            RunState::Paused => return Err(CheckError::Paused),
            RunState::Undecided => return Err(PauseError::Undecided.into()),
        }
        Ok(request_check(&mut RamWords(&self.ram), config)?)
    }

    /// Lets the guest write again: also one that was paused meanwhile, or it would hold for ever once it is resumed.
    fn withdraw_check(&self, config: &Config) -> Result<(), CheckError> {
        let state = self.lock_run_state();
        if *state == RunState::Undecided {
            // Its memory may be another machine's by now; should it run on here, it is told to work.
            return Ok(());
        }
        Ok(config.set_control(&mut RamWords(&self.ram), Control::RUN)?)
    }

    fn wait_for_check(&self, config: &Config, number: u64, limit: Duration) -> Result<Report, CheckError> {
        let begun = Instant::now();
        loop {
            if let Some(report) = check_result(&mut RamWords(&self.ram), config, number)? {
                return Ok(report);
            }
            self.ended()?;
            if begun.elapsed() > limit {
                return Err(CheckError::Timeout(limit));
            }
            thread::sleep(POLL);
        }
    }

    fn inspect(&self, config: &Config) -> Result<Report, CheckError> {
        let state = self.lock_run_state();
        let _quiet = self.clock.as_ref().map(crate::clock::Clock::quiesce);
        self.threads.stop().map_err(PauseError::from)?;
        let report = inspect(&mut RamWords(&self.ram), config);
        if *state == RunState::Running {
            self.threads.resume();
        }
        Ok(report?)
    }
}
