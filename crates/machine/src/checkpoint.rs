//! Taking a live, incremental checkpoint.
//!
//! ```text
//!  guest runs        │ round 1: harvest, copy ─ round 2 ─ … ─ round n │
//!  guest stands      │                                               │ stop, save state, seal, copy the last pages │
//!  guest runs again  │                                                                                            │ write, fsync, commit
//! ```
//!
//! Pages are copied into this process's memory in rounds while the guest runs, each round taking what was written during
//! the one before, until little is left or no round makes it less. Only that remainder is copied while the guest stands.
//! The disk is used before and after, never in between. A set that would not fit the memory set aside for copies is
//! written to the store at once, in the rounds.

mod audit;
mod capture;
mod cross;
mod error;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ringmark_dirty::DirtyPages;
use ringmark_dirty::mutant::{self, Mutant};
use ringmark_image::{BeginError, Finished, ImageId, ImageSpec, Layout, Store, WriteError, Writer};
use ringmark_track::{Advice, AuditRate, BySource, Epoch, EpochCost, OpenEpoch};

use crate::machine::{Checkpoints, Halt, Machine, Newest};
use crate::saved::{self, MachineSaved, Parts};
use crate::working_set;
use audit::Auditor;
use capture::Capture;

pub use audit::AuditOutcome;
pub(crate) use cross::CrossCheck;
pub use cross::{CheckOutcome, CheckWith, CheckWithError};
pub use error::CheckpointError;

/// Most rounds before the cut. Each at least halves what is left or is the last, so more would hardly change it.
const MAX_ROUNDS: u32 = 8;
/// A remainder this small is copied in the pause: a few hundred microseconds.
const SMALL_ROUND: u64 = 512;

/// What a checkpoint is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// A base with every page, even where an increment is possible.
    pub full: bool,
    /// Audit this cut, and how much of memory is watched from here on; the machine's own share counts where it is larger.
    pub audit: Option<AuditRate>,
}

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Pages are copied while the guest runs.
    Copying,
    /// The guest stands still.
    Paused,
    /// The guest runs again; pages are written.
    Writing,
    /// All is written and being made durable.
    Syncing,
}

/// A checkpoint on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Pages done in this phase.
    pub pages: u64,
    /// Pages the phase will have.
    pub total: u64,
    /// Bytes the store has taken.
    pub bytes: u64,
    /// Since the checkpoint began.
    pub elapsed: Duration,
}

/// A checkpoint that was taken.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The image's identity.
    pub image: ImageId,
    /// What it goes on from; `None` for a base.
    pub parent: Option<ImageId>,
    /// What the store made of it.
    pub stored: Finished,
    /// The epoch's pages, by the source that reported each first.
    pub by_source: BySource,
    /// Rounds before the cut.
    pub rounds: u32,
    /// Pages copied while the guest stood.
    pub last_round: u64,
    /// From the order to stop until the guest was told to run, less the audit.
    pub pause: Duration,
    /// The audit's share of the standstill.
    pub audit: Option<AuditOutcome>,
    /// What a second look at the written pages came to; its time is not in the pause either.
    pub check: Option<CheckOutcome>,
    /// From the request until the image was durable.
    pub total: Duration,
    /// What would cost the guest less than this machine's way of tracking.
    pub advice: Vec<Advice>,
}

impl Machine {
    /// Takes a checkpoint into `store` while the guest runs; returns when the image is durable.
    ///
    /// The first one of a machine is a base, each later one an increment to the one before; after a failed one, the next
    /// contains its pages.
    ///
    /// # Errors
    /// Says what failed and what the guest does now. Earlier images are untouched and no page is lost.
    pub fn checkpoint(
        &self,
        store: &Store,
        options: CheckpointOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checkpoint, CheckpointError> {
        let mut state = self.try_lock_checkpoints().ok_or(CheckpointError::Busy)?;
        if self.threads.outcome().is_some() {
            return Err(CheckpointError::Ended);
        }
        let running = Running::new(&self.checkpoint_running);
        let result = self.take(&mut state, store, options, progress);
        drop(running);
        match result {
            // Whatever step noticed it first.
            Err(_) if self.threads.outcome().is_some() => Err(CheckpointError::Ended),
            Err(error @ CheckpointError::Write(WriteError::Parent(_))) => {
                // An increment to what cannot be read would fail again.
                state.newest = None;
                Err(error)
            }
            Err(error @ (CheckpointError::Escapes(_) | CheckpointError::Unseen { .. })) => {
                // The escaped pages are in no set and no image.
                state.mistrust();
                Err(error)
            }
            result => result,
        }
    }

    fn take(
        &self,
        state: &mut Checkpoints,
        store: &Store,
        options: CheckpointOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checkpoint, CheckpointError> {
        let begun = Instant::now();
        let parent = state.parent(store, options);
        let (writer, parent) = self.begin(store, parent)?;
        if parent.is_none() || !state.tracker.is_armed() {
            // A base is read from memory alone. Not so an increment: what is still to come is in its parent.
            self.ram.wait_until_whole()?;
            state.newest = None;
            state.audit = None;
            state.tracker.arm()?;
        }
        let Checkpoints {
            tracker,
            stage,
            audited,
            audit,
            newest,
            advisor,
            bitmaps_advised,
            written_before,
            check,
            ..
        } = state;
        let rate = options.audit.max(*audited);
        let auditor = Auditor::new(rate, audit, tracker);
        stage.clear(Capture::budget(&self.ram));
        let mut capture = Capture::new(&self.ram, stage, writer, begun, progress);

        let mut epoch = tracker.open()?;
        let mut written = DirtyPages::new(self.ram.slots());
        let rounds = rounds(&mut epoch, &mut capture, parent.is_none(), &mut written)?;

        capture.say(Phase::Paused, 0, 0);
        let pause = Instant::now();
        let mut stopped = epoch.cut().stop(Halt::new(self))?;
        let mut running_bitmap = None;
        if advisor.wants_split() {
            let begun = Instant::now();
            let (cut, pages) = stopped.collect_backup()?;
            stopped = cut;
            running_bitmap = Some((pages, begun.elapsed()));
        }
        let (saved, state) = stopped.save_devices(|halt| Ok(halt.save()?))?;
        let sealed = saved.seal()?;
        let last_round = sealed.pages().len();
        written.union_with(sealed.pages());
        capture.last(sealed.pages())?;
        let audit_begun = Instant::now();
        let outcome = auditor.observe(&self.ram, sealed.epoch_pages())?;
        let checked = check.as_mut().map(|check| check.observe(sealed.epoch_pages())).transpose()?;
        let audit_time = audit_begun.elapsed();
        let epoch = sealed.resume()?;
        let pause = pause.elapsed().saturating_sub(audit_time);

        let by_source = epoch.by_source();
        let advice = if parent.is_some() {
            advisor.observe(&EpochCost {
                by_source,
                running_bitmap,
                memory_pages: self.ram.slots().total_pages(),
                vcpus: self.facts().vcpus,
                rounds,
                copied: capture.copied(),
                last_round,
                pause,
            })
        } else {
            Vec::new()
        };
        if let Some(advice) = advice.iter().find(|advice| matches!(advice, Advice::StandaloneBitmaps { .. }))
        {
            bitmaps_advised.get_or_insert_with(|| advice.to_string());
        }

        let digest = outcome.as_ref().and_then(|outcome| outcome.digest);
        let parts = Parts {
            hypervisor: self.facts().hypervisor,
            cpus: state.cpus,
            platform: state.platform,
            serial: state.serial,
            guest: self.guest_config().copied(),
            digest,
            bitmaps_advised: bitmaps_advised.clone(),
        };
        let machine = MachineSaved::new(parts).encode().map_err(CheckpointError::State)?;
        let mut epoch = Some(epoch);
        if mutant::active(Mutant::CommitBeforeDurable) {
            epoch.take().into_iter().for_each(Epoch::commit);
        }
        // Of two epochs: a guest that writes in bursts was perhaps idle in one.
        let mut working_set = written.clone();
        if let Some(before) = written_before {
            working_set.union_with(before);
        }
        let working_set = working_set::encode(&working_set);
        let stored = capture.finish(&[(saved::PART, &machine), (working_set::PART, &working_set)])?;
        epoch.into_iter().for_each(Epoch::commit);
        *written_before = Some(written);
        if !mutant::active(Mutant::ParentNotAdvanced) || newest.is_none() {
            *newest = Some(Newest { image: stored.id, store: store.location().to_owned() });
        }
        Ok(Checkpoint {
            image: stored.id,
            parent,
            stored,
            by_source,
            rounds,
            last_round,
            pause,
            audit: outcome,
            check: checked,
            total: begun.elapsed(),
            advice,
        })
    }

    /// A writer for an increment to `parent`, or for a base if there is none or it is gone from the store.
    fn begin(
        &self,
        store: &Store,
        parent: Option<ImageId>,
    ) -> Result<(Writer, Option<ImageId>), CheckpointError> {
        let layout = Layout::new(self.ram.layout().page_size(), self.ram.slots().clone())?;
        let spec = |parent| ImageSpec {
            vm: self.facts().name.clone(),
            parent,
            layout: layout.clone(),
            created: SystemTime::now(),
        };
        match store.begin(spec(parent)) {
            Ok(writer) => Ok((writer, parent)),
            Err(error @ (BeginError::Parent(_) | BeginError::Scattered { .. })) => {
                tracing::warn!(%error, "the newest image cannot be gone on from: this checkpoint is a base");
                Ok((store.begin(spec(None))?, None))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Says that a checkpoint is being taken, while it lives.
struct Running<'a>(&'a AtomicBool);

impl<'a> Running<'a> {
    fn new(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Checkpoints {
    fn parent(&self, store: &Store, options: CheckpointOptions) -> Option<ImageId> {
        let newest = self.newest.as_ref().filter(|newest| newest.store == store.location())?;
        (!options.full && self.tracker.is_armed()).then_some(newest.image)
    }
}

/// Copies in rounds while the guest runs; returns how many. Adds what the guest wrote to `written`.
fn rounds(
    epoch: &mut OpenEpoch<'_>,
    capture: &mut Capture<'_>,
    base: bool,
    written: &mut DirtyPages,
) -> Result<u32, CheckpointError> {
    let mut previous = u64::MAX;
    for round in 1..=MAX_ROUNDS {
        let pages = epoch.round()?;
        let count = pages.len();
        if base && round == 1 {
            capture.base(&pages)?;
        } else {
            written.union_with(&pages);
            capture.live(&pages)?;
        }
        // What was written while this round was copied is about what the next would find: stop when it is little, or
        // when rounds no longer make it less (the guest writes as fast as they copy).
        if count <= SMALL_ROUND || count > previous / 4 * 3 {
            capture.expect(count);
            return Ok(round);
        }
        previous = count;
    }
    capture.expect(previous);
    Ok(MAX_ROUNDS)
}
