//! A machine leaves.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use ringmark_dirty::{DirtyPages, SlotTable};
use ringmark_migrate::Connector;
use ringmark_migrate::report::Report;
use ringmark_migrate::send::{DepartError, Departing, Identity, SendOptions, SendProgress, depart, resume};
use ringmark_track::{BoxError, Memory};

use super::MigrateError;
use super::needs::Needs;
use crate::machine::{Checkpoints, Halt, Machine, RunState};
use crate::saved::{MachineSaved, Parts};

/// Where a migration begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// With all of memory.
    Anew,
    /// With what a cut link has left.
    GoOn,
}

impl Machine {
    /// Sends the machine to `to` while its guest runs, and returns when the guest runs there: this machine has then ended, as
    /// [`End::Left`](crate::End::Left). A paused machine arrives paused.
    ///
    /// Setting `cancel` calls it off, which has an effect until the guest is committed to the destination. While it lasts no
    /// checkpoint is taken; one that is asked for is refused.
    ///
    /// # Errors
    /// Says what failed and what the guest does now. Unless the destination may run it, it goes on here as before: every page
    /// of the failed migration is in the next checkpoint, which is an increment where it would have been one.
    pub fn migrate(
        &self,
        to: &Connector,
        options: &SendOptions,
        cancel: &AtomicBool,
        watch: &mut dyn FnMut(&SendProgress<'_>),
    ) -> Result<Report, MigrateError> {
        self.leave(How::Anew, to, options, cancel, watch)
    }

    /// As [`migrate`](Self::migrate), going on with the last migration whose link was cut: what its destination holds and the guest
    /// has not written since is not sent again, however many checkpoints were taken meanwhile. If `to` does not hold it any more,
    /// everything is sent, as [`Report::resumed`] says.
    ///
    /// # Errors
    /// As [`migrate`](Self::migrate), and [`MigrateError::NothingToResume`].
    pub fn resume_migration(
        &self,
        to: &Connector,
        options: &SendOptions,
        cancel: &AtomicBool,
        watch: &mut dyn FnMut(&SendProgress<'_>),
    ) -> Result<Report, MigrateError> {
        self.leave(How::GoOn, to, options, cancel, watch)
    }

    fn leave(
        &self,
        how: How,
        to: &Connector,
        options: &SendOptions,
        cancel: &AtomicBool,
        watch: &mut dyn FnMut(&SendProgress<'_>),
    ) -> Result<Report, MigrateError> {
        let mut state = self.try_lock_checkpoints().ok_or(MigrateError::Busy)?;
        if self.outcome().is_some() {
            return Err(MigrateError::Ended);
        }
        if self.run_state() == RunState::Undecided {
            return Err(MigrateError::Undecided);
        }
        let _under_way = UnderWay::new(&self.migration_running);
        // Its memory file has holes where pages are still to come.
        self.ram.wait_until_whole()?;
        let Checkpoints { tracker, newest, audit, bitmaps_advised, resumable, .. } = &mut *state;
        let kept = resumable.take_if(|kept| !kept.fits(tracker, self.ram.slots()) || how == How::GoOn);
        let kept = kept.filter(|kept| kept.fits(tracker, self.ram.slots()));
        if how == How::GoOn && kept.is_none() {
            return Err(MigrateError::NothingToResume);
        }
        if !tracker.is_armed() {
            // The migration arms it: whatever was taken before, of what was written since nothing is known.
            *newest = None;
            *audit = None;
        }
        let identity = self.identity(bitmaps_advised.as_ref()).map_err(MigrateError::Needs)?;
        let leaving = Leaving { machine: self, bitmaps_advised: bitmaps_advised.clone() };
        let left = match kept {
            Some(kept) => resume(&leaving, &identity, tracker, to, options, *kept, cancel, watch),
            None => depart(&leaving, &identity, tracker, to, options, cancel, watch),
        };
        match left {
            // Whatever step noticed it first.
            Err(_) if self.outcome().is_some() => Err(MigrateError::Ended),
            Err(mut departed) => {
                if matches!(*departed.error, DepartError::Escapes(_)) {
                    state.mistrust();
                }
                let left = departed.resumable.take();
                let resumable = left.is_some();
                if resumable {
                    state.resumable = left;
                }
                Err(MigrateError::Departed { departed, resumable })
            }
            Ok(report) => Ok(report),
        }
    }

    /// Whether the machine is on its way to another host.
    #[must_use]
    pub fn is_migrating(&self) -> bool {
        self.migration_running.load(Ordering::Relaxed)
    }

    pub(crate) fn identity(&self, bitmaps_advised: Option<&String>) -> Result<Identity, String> {
        let facts = self.facts();
        Ok(Identity {
            name: facts.name.clone(),
            hypervisor: facts.hypervisor.name().into(),
            architecture: std::env::consts::ARCH.into(),
            vcpus: facts.vcpus,
            needs: self.needs(bitmaps_advised).encode()?,
        })
    }

    fn needs(&self, bitmaps_advised: Option<&String>) -> Needs {
        let (translators, processor) = (self.platform().translators(), self.platform().processor());
        Needs::new(self.facts().hypervisor, translators, processor, bitmaps_advised.cloned())
    }
}

/// A machine on its way.
struct Leaving<'m> {
    machine: &'m Machine,
    bitmaps_advised: Option<String>,
}

impl Departing for Leaving<'_> {
    type Halted<'h>
        = Halt<'h>
    where
        Self: 'h;

    fn memory(&self) -> &dyn Memory {
        &self.machine.ram
    }

    fn slots(&self) -> &SlotTable {
        self.machine.ram.slots()
    }

    fn memory_file(&self) -> Result<BorrowedFd<'_>, String> {
        let needs = self.machine.needs(self.bitmaps_advised.as_ref());
        needs.leaves_memory_alone().and_then(|()| self.machine.ram.handed_over())
    }

    fn holes(&self) -> Result<DirtyPages, BoxError> {
        let mut holes = DirtyPages::new(self.slots());
        holes.insert_all();
        holes.subtract(&self.machine.ram.present()?);
        Ok(holes)
    }

    fn halt(&self) -> Halt<'_> {
        Halt::new(self.machine)
    }

    fn save(&self, halted: &mut Halt<'_>) -> Result<Vec<u8>, BoxError> {
        let state = halted.save()?;
        let parts = Parts {
            hypervisor: self.machine.facts().hypervisor,
            cpus: state.cpus,
            platform: state.platform,
            serial: state.serial,
            guest: self.machine.guest_config().copied(),
            digest: None,
            bitmaps_advised: self.bitmaps_advised.clone(),
        };
        let mut saved = MachineSaved::new(parts);
        saved.paused = halted.is_paused();
        Ok(saved.encode()?)
    }

    fn leave(&self, halted: Halt<'_>, undecided: bool) {
        halted.hand_over(undecided);
    }
}

/// Says that something is under way, while it lives.
pub(super) struct UnderWay<'a>(&'a AtomicBool);

impl<'a> UnderWay<'a> {
    pub(super) fn new(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
