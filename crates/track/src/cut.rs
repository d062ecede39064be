//! The cut: one way through it, and the compiler knows it.

mod guest;

use std::fmt;

use ringmark_dirty::DirtyPages;
use ringmark_dirty::mutant::{self, Mutant};

use crate::epoch::{Epoch, OpenEpoch, Owned};
use crate::{BoxError, BySource};
use guest::Halted;

pub use guest::{GuestState, Vcpus};

/// The instant to which an epoch's data is consistent, as a walk through four states.
///
/// ```text
///  Running ──stop──▶ Stopped ──save_devices──▶ DevicesSaved ──seal──▶ Sealed ──resume──▶ Epoch
///                                                                       │
///                                              capture pages() ◀────────┘ before resume
/// ```
///
/// Each step is a method of one state only, takes the cut and gives it back in the next state, so no other order
/// compiles:
///
/// * Devices are saved *after* the vCPUs have stopped: a running vCPU could change what was saved.
///   ```compile_fail,E0599
///   # fn f(cut: ringmark_track::Cut<'_, ringmark_track::Running>) {
///   cut.save_devices(|_| Ok(()));
///   # }
///   ```
/// * The cut is sealed *after* the devices are saved: saving writes guest memory (interrupt tables, the completion of
///   an I/O, what a vCPU ioctl leaves), and a log collected before misses that.
///   ```compile_fail,E0599
///   # fn f<V: ringmark_track::Vcpus>(cut: ringmark_track::Cut<'_, ringmark_track::Stopped<V>>) {
///   cut.seal();
///   # }
///   ```
///   ```compile_fail,E0599
///   # fn f(cut: ringmark_track::Cut<'_, ringmark_track::Running>) {
///   cut.seal();
///   # }
///   ```
/// * The last pages are read from a *sealed* cut, and from no other.
///   ```compile_fail,E0599
///   # fn f<V: ringmark_track::Vcpus>(cut: ringmark_track::Cut<'_, ringmark_track::DevicesSaved<V>>) {
///   cut.pages();
///   # }
///   ```
/// * The guest resumes from a sealed cut only, so every harvested entry is reset before it does.
///   ```compile_fail,E0599
///   # fn f<V: ringmark_track::Vcpus>(cut: ringmark_track::Cut<'_, ringmark_track::DevicesSaved<V>>) {
///   cut.resume();
///   # }
///   ```
///   ```compile_fail,E0599
///   # fn f<V: ringmark_track::Vcpus>(cut: ringmark_track::Cut<'_, ringmark_track::Stopped<V>>) {
///   cut.resume();
///   # }
///   ```
/// * The pages of a cut are borrowed from it, so they are read *before* the guest resumes.
///   ```compile_fail,E0505
///   # fn f<V: ringmark_track::Vcpus>(cut: ringmark_track::Cut<'_, ringmark_track::Sealed<V>>) {
///   let pages = cut.pages();
///   cut.resume();
///   pages.len();
///   # }
///   ```
/// * A stopped cut cannot be stopped again, nor a sealed one sealed.
///   ```compile_fail,E0382
///   # fn f<V: ringmark_track::Vcpus>(cut: ringmark_track::Cut<'_, ringmark_track::DevicesSaved<V>>) {
///   cut.seal();
///   cut.seal();
///   # }
///   ```
/// * There is no epoch to commit before the guest has been resumed.
///   ```compile_fail,E0599
///   # fn f<V: ringmark_track::Vcpus>(cut: ringmark_track::Cut<'_, ringmark_track::Sealed<V>>) {
///   cut.commit();
///   # }
///   ```
///
/// # When something fails
/// Whatever a step fails with, and wherever an unfinished cut is dropped, two things have happened afterwards: the
/// epoch's pages are back in the tracker, and the guest was told to run on. [`CutError::guest`] says whether it does.
///
/// # What may not be between stop and resume
/// No disk and no network. Between [`Cut::pages`] and [`Cut::resume`] the pages are copied, or protected by other
/// means; they are written out from the [`Epoch`].
#[must_use = "a cut that is dropped rolls back and resumes the guest"]
pub struct Cut<'t, S> {
    // Declared, and so dropped, in this order: the pages are back in the tracker before the guest runs.
    owned: Owned<'t>,
    state: S,
}

/// The guest runs; nothing has happened.
#[derive(Debug)]
pub struct Running(());

/// Every vCPU is out of the guest and stays out.
#[derive(Debug)]
pub struct Stopped<V: Vcpus>(Halted<V>);

/// What writes guest memory when it is saved has been saved.
#[derive(Debug)]
pub struct DevicesSaved<V: Vcpus>(Halted<V>);

/// Every source has given up its last pages.
#[derive(Debug)]
pub struct Sealed<V: Vcpus>(Halted<V>);

/// The steps of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Stopping the vCPUs.
    Stop,
    /// Saving the devices.
    SaveDevices,
    /// The final harvest.
    Seal,
    /// Resuming the vCPUs.
    Resume,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stopping the vCPUs",
            Self::SaveDevices => "saving the devices",
            Self::Seal => "the final harvest",
            Self::Resume => "resuming the guest",
        })
    }
}

/// Why a cut failed, and what the guest is doing now. No page is lost: the epoch rolled back into the next one.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed: {error}; {guest}, and the next epoch contains the pages of this one")]
pub struct CutError {
    /// The step.
    pub step: Step,
    /// Why it failed.
    #[source]
    pub error: BoxError,
    /// Whether the guest runs.
    pub guest: GuestState,
}

impl<'t> Cut<'t, Running> {
    pub(crate) const fn new(owned: Owned<'t>) -> Self {
        Self { owned, state: Running(()) }
    }

    /// Stops the vCPUs, and whatever else writes guest memory without their help (vhost back ends, the monitor's I/O
    /// threads).
    ///
    /// A vCPU that waits for its full ring to be drained is served meanwhile, by the collector's thread, and so can
    /// stop.
    ///
    /// # Errors
    /// If [`Vcpus::stop`] fails; [`Vcpus::resume`] was called for those that had stopped.
    pub fn stop<V: Vcpus>(self, vcpus: V) -> Result<Cut<'t, Stopped<V>>, CutError> {
        let Self { mut owned, .. } = self;
        owned.stopping(true);
        let mut halted = Halted::new(vcpus, owned.events());
        match halted.stop() {
            Ok(()) => Ok(Cut { owned, state: Stopped(halted) }),
            Err(error) => Err(fail(Step::Stop, error, owned, halted)),
        }
    }
}

impl<'t, V: Vcpus> Cut<'t, Stopped<V>> {
    /// Collects the kernel's bitmap now, before the devices write their tables, and says how many pages that gave: those
    /// that the kernel wrote while the guest ran.
    ///
    /// It is for an [`Advisor`](crate::Advisor) and changes nothing else: the seal collects the bitmap again, and these
    /// pages are the epoch's.
    ///
    /// # Errors
    /// If the source fails.
    pub fn collect_backup(self) -> Result<(Self, u64), CutError> {
        let Self { mut owned, state } = self;
        let before = owned.by_source().bitmap;
        match owned.seal_bitmaps() {
            Ok(()) => {
                let pages = owned.by_source().bitmap - before;
                Ok((Self { owned, state }, pages))
            }
            Err(error) => Err(fail(Step::Stop, error.into(), owned, state.0)),
        }
    }

    /// Saves everything whose saving may write guest memory, in this order: pending I/O of the vCPUs completed, vCPU
    /// state, then the devices. Everything that the image needs of KVM is fetched here; no ioctl that may write guest
    /// memory follows.
    ///
    /// # Errors
    /// What `save` fails with. Interrupt tables that were partly saved have marked their pages; these are kept.
    pub fn save_devices<T>(
        self,
        save: impl FnOnce(&mut V) -> Result<T, BoxError>,
    ) -> Result<(Cut<'t, DevicesSaved<V>>, T), CutError> {
        let Self { mut owned, state: Stopped(mut halted) } = self;
        if mutant::active(Mutant::BitmapBeforeTables)
            && let Err(error) = owned.seal_bitmaps()
        {
            return Err(fail(Step::SaveDevices, error.into(), owned, halted));
        }
        match save(halted.vcpus()) {
            Ok(saved) => Ok((Cut { owned, state: DevicesSaved(halted) }, saved)),
            Err(error) => Err(fail(Step::SaveDevices, error, owned, halted)),
        }
    }
}

impl<'t, V: Vcpus> Cut<'t, DevicesSaved<V>> {
    /// The final harvest: the rings, with every entry reset; then the kernel's bitmaps, as the last call into KVM;
    /// then the sources of the monitor's author; then the monitor's own writes.
    ///
    /// # Errors
    /// If a source fails, also because a writer is still at work.
    pub fn seal(self) -> Result<Cut<'t, Sealed<V>>, CutError> {
        let Self { mut owned, state: DevicesSaved(halted) } = self;
        match owned.seal() {
            Ok(()) => Ok(Cut { owned, state: Sealed(halted) }),
            Err(error) => Err(fail(Step::Seal, error.into(), owned, halted)),
        }
    }
}

impl<'t, V: Vcpus> Cut<'t, Sealed<V>> {
    /// The pages written since the last round: their contents are to be captured *now*, before the guest resumes.
    /// Without a round, these are all pages of the epoch.
    #[must_use]
    pub const fn pages(&self) -> &DirtyPages {
        self.owned.fresh()
    }

    /// Every page of the epoch, also those that rounds gave already.
    #[must_use]
    pub const fn epoch_pages(&self) -> &DirtyPages {
        self.owned.pages()
    }

    /// The epoch's pages by source.
    #[must_use]
    pub const fn by_source(&self) -> BySource {
        self.owned.by_source()
    }

    /// Leaves the guest stopped, for whoever hands it to another host: it runs there, or it may. The epoch's pages are
    /// back in the tracker, in case it comes back.
    ///
    /// What stopped the vCPUs is dropped without resuming them; who wants to resume them later gives
    /// [`stop`](Cut::stop) a `&mut V`.
    pub fn stand_still(self) {
        let Self { owned, state: Sealed(halted) } = self;
        drop(owned);
        halted.keep();
    }

    /// Lets the guest run as if there had been no cut, and goes on with the epoch: the sealed pages, protected and not yet
    /// copied, come with its next round. For whoever finds that the last pages are more than the guest is to wait for.
    ///
    /// What was written after the seal is in the log, so unlike [`resume`](Self::resume) this does not mind it.
    ///
    /// # Errors
    /// If [`Vcpus::resume`] fails.
    pub fn call_off(self) -> Result<OpenEpoch<'t>, CutError> {
        let Self { mut owned, state: Sealed(mut halted) } = self;
        owned.stopping(false);
        match halted.resume() {
            Ok(()) => Ok(OpenEpoch::again(owned)),
            Err(error) => Err(fail(Step::Resume, error, owned, halted)),
        }
    }

    /// Lets the guest run, and gives the epoch to whoever makes its data durable.
    ///
    /// # Errors
    /// If something wrote guest memory after the seal, as far as the sources can tell: what was captured is
    /// inconsistent then. If [`Vcpus::resume`] fails.
    pub fn resume(self) -> Result<Epoch<'t>, CutError> {
        let Self { mut owned, state: Sealed(mut halted) } = self;
        if let Err(error) = owned.unchanged_since_seal() {
            return Err(fail(Step::Resume, error.into(), owned, halted));
        }
        owned.stopping(false);
        match halted.resume() {
            Ok(()) => Ok(Epoch::new(owned)),
            Err(error) => Err(fail(Step::Resume, error, owned, halted)),
        }
    }
}

fn fail<V: Vcpus>(step: Step, error: BoxError, owned: Owned<'_>, mut halted: Halted<V>) -> CutError {
    drop(owned);
    CutError { step, error, guest: halted.release() }
}

impl<S: fmt::Debug> fmt::Debug for Cut<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cut").field("state", &self.state).field("owned", &self.owned).finish()
    }
}
