//! The tracker: one VM, its sources, and the pages that nobody owns yet.

use std::sync::Arc;

use ringmark_abi::{Errno, Vm};
use ringmark_dirty::mutant::{self, Mutant};
use ringmark_dirty::{DirtyPages, RingMemory, SlotId, SlotTable};

use crate::collector::{CollectError, Collector, CollectorStats, RingFull, Stats};
use crate::epoch::{Acknowledged, OpenEpoch};
use crate::reaper::Reaper;
use crate::reports::Reports;
use crate::source::{BackupBitmap, RingSource, StandaloneBitmap};
use crate::throttle::{Brakes, LetGo};
use crate::{Collected, EventLog, Method, Source, SourceError, Throttle};

/// Tracks every write to the memory of one VM.
///
/// ```text
/// negotiate → Tracker::new → add_ring …, add_source … → arm → open → round … → cut → … → commit
///                                                              ↑___________________________|
/// ```
///
/// # Who owns a page
/// A source that gives a page up has forgotten it. From then on exactly one thing holds it: the collector, the open
/// [`OpenEpoch`], the [`Cut`](crate::Cut) or the [`Epoch`](crate::Epoch), until that is committed; whatever else
/// becomes of it, an error, a drop or a panic, its pages come back here and are part of the next epoch.
///
/// An epoch borrows the tracker, so two are never open at once; that a page is in the *next* epoch has only one
/// meaning.
///
/// # What runs at the same time
/// vCPU threads hold a [`RingFull`] each, writers of the monitor a [`MonitorLog`](crate::MonitorLog); neither needs the
/// tracker. [`EventLog`] and [`StatsReader`] are handles for whoever reports on it.
pub struct Tracker {
    reaper: Arc<Reaper>,
    method: Method,
    collector: Option<Arc<Collector>>,
    sources: Vec<Box<dyn Source>>,
    carried: DirtyPages,
    acknowledged: Option<Acknowledged>,
    armed: bool,
    reports: Option<Reports>,
}

/// Why tracking could not be set up, begun or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// An epoch was to be opened on a tracker that is not armed.
    #[error("nothing is tracked yet: arm the tracker before an epoch is opened")]
    NotArmed,
    /// A source was to be added to a tracker that is armed.
    #[error("the tracker is armed already: add every source before, or what it logged until now is lost")]
    Armed,
    /// A ring was to be added to a tracker that uses bitmaps.
    #[error("this VM is tracked with bitmaps: its vCPUs have no dirty rings to add")]
    NoRings,
    /// The log of a memslot could not be switched.
    #[error("the dirty log of memslot {slot} could not be switched {}: {errno}; tracking is off", if *.on { "on" } else { "off" })]
    Log {
        /// The memslot.
        slot: SlotId,
        /// To what.
        on: bool,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The collector failed.
    #[error(transparent)]
    Collector(#[from] CollectError),
    /// A source failed.
    #[error("{kind} could not be switched {}: {error}; tracking is off", if *.on { "on" } else { "off" })]
    Source {
        /// Which source.
        kind: crate::SourceKind,
        /// To what.
        on: bool,
        /// Why.
        error: SourceError,
    },
}

impl Tracker {
    /// A tracker of `vm`, whose memory is `slots` and with which `method` was [negotiated](crate::negotiate).
    ///
    /// `slots` are the slots of guest RAM. They are fixed: a slot is not to be moved, deleted or re-flagged while it is
    /// tracked, and a VM with other memory needs another tracker, and a new base.
    ///
    /// # Errors
    /// If the collector's thread cannot be started.
    pub fn new(vm: Arc<dyn Vm>, slots: SlotTable, method: Method) -> Result<Self, TrackError> {
        Self::with_collector(vm, slots, method, Collector::start)
    }

    pub(crate) fn with_collector(
        vm: Arc<dyn Vm>,
        slots: SlotTable,
        method: Method,
        start: impl FnOnce(Arc<Reaper>) -> Result<Collector, CollectError>,
    ) -> Result<Self, TrackError> {
        let carried = DirtyPages::new(&slots);
        let reaper = Arc::new(Reaper::new(vm, slots));
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        let mut collector = None;
        if method.ring_entries().is_some() {
            let started = Arc::new(start(Arc::clone(&reaper))?);
            sources.push(Box::new(RingSource::new(Arc::clone(&started))));
            collector = Some(started);
        }
        match method {
            Method::Ring { .. } => {}
            Method::RingWithBitmap { .. } => sources.push(Box::new(BackupBitmap::new(Arc::clone(&reaper)))),
            Method::Bitmap => sources.push(Box::new(StandaloneBitmap::new(Arc::clone(&reaper)))),
        }
        Ok(Self {
            reaper,
            method,
            collector,
            sources,
            carried,
            acknowledged: None,
            armed: false,
            reports: None,
        })
    }

    /// Adds the dirty ring of vCPU `vcpu`, which was just created: its entries are read from the first on.
    ///
    /// The handle is what the vCPU's thread calls when its ring is full, for as long as it runs.
    ///
    /// # Errors
    /// [`TrackError::NoRings`] with [`Method::Bitmap`]; the collector's errors.
    pub fn add_ring(&mut self, vcpu: u32, memory: Arc<dyn RingMemory>) -> Result<RingFull, TrackError> {
        let collector = self.collector.as_ref().ok_or(TrackError::NoRings)?;
        Ok(collector.add(vcpu, memory)?)
    }

    /// Adds a source: the monitor's own writes, or the log of something else that writes guest memory.
    ///
    /// # Errors
    /// [`TrackError::Armed`] once the tracker is armed.
    pub fn add_source(&mut self, source: Box<dyn Source>) -> Result<(), TrackError> {
        if self.armed {
            return Err(TrackError::Armed);
        }
        self.sources.push(source);
        self.sources.sort_by_key(|source| source.kind());
        Ok(())
    }

    /// Begins to track. The first epoch contains every page: it is the base.
    ///
    /// In the kernel's order: the other writers' logs first, then what old entries there are thrown away, then the
    /// log of every slot. Nothing is read before this returns. May be called again, and is then a new base.
    ///
    /// # Errors
    /// Names what could not be switched on; tracking is off then.
    pub fn arm(&mut self) -> Result<(), TrackError> {
        // Before anything is forgotten below: whatever fails, no epoch is opened on half a log.
        self.armed = false;
        self.acknowledged = None;
        if !mutant::active(Mutant::FirstEpochNoBase) {
            self.carried.insert_all();
        }
        self.begin()
    }

    /// As [`arm`](Self::arm), for a memory that is held elsewhere as it is now, as that of a VM that was just restored is
    /// by its image: the first epoch contains what is written from here on, and no base. What sources have logged until
    /// now, the monitor's own filling of memory say, is forgotten.
    ///
    /// Costs nothing a page of memory, if the slots were created with their log switched on, which is no change then. To be
    /// called before any vCPU runs, and before whatever else may write, such as putting back the state of devices.
    ///
    /// # Errors
    /// As [`arm`](Self::arm), which begins with a base then.
    pub fn arm_after_restore(&mut self) -> Result<(), TrackError> {
        self.armed = false;
        self.carried = DirtyPages::new(self.reaper.slots());
        self.begin()
    }

    fn begin(&mut self) -> Result<(), TrackError> {
        let begun = self.begin_logging();
        let mut reaper = self.reaper.lock();
        if begun.is_err() && reaper.is_logging() {
            // The failure is reported already; a log that stays on merely costs the guest its faults.
            let _ = reaper.stop_logging();
        }
        drop(reaper);
        self.armed = begun.is_ok();
        begun
    }

    fn begin_logging(&mut self) -> Result<(), TrackError> {
        for source in self.sources.iter_mut().rev() {
            let kind = source.kind();
            source.arm().map_err(|error| TrackError::Source { kind, on: true, error })?;
        }
        let logging = self.reaper.lock().start_logging();
        logging.map_err(|(slot, errno)| TrackError::Log { slot, on: true, errno })
    }

    /// Opens the next epoch: everything written since the last committed one.
    ///
    /// # Errors
    /// [`TrackError::NotArmed`].
    pub fn open(&mut self) -> Result<OpenEpoch<'_>, TrackError> {
        if self.armed { Ok(OpenEpoch::new(self)) } else { Err(TrackError::NotArmed) }
    }

    /// Ends tracking: switches the log of every slot off, then empties the rings. What was written since the last
    /// committed epoch is forgotten; arming again is a new base.
    ///
    /// vCPU threads go on serving full rings: one may still come.
    ///
    /// # Errors
    /// The first thing that could not be switched off; the rest is switched off all the same.
    pub fn disarm(&mut self) -> Result<(), TrackError> {
        self.armed = false;
        self.acknowledged = None;
        self.carried = DirtyPages::new(self.reaper.slots());
        let mut result = self.reaper.lock().stop_logging().map_err(|(slot, errno)| TrackError::Log {
            slot,
            on: false,
            errno,
        });
        for source in &mut self.sources {
            let kind = source.kind();
            let disarmed = source.disarm().map_err(|error| TrackError::Source { kind, on: false, error });
            result = result.and(disarmed);
        }
        result
    }

    /// Whether it is known which pages `consumer` holds, of which it was the last to [acknowledge](OpenEpoch::acknowledge) some, so
    /// that it can [go on](OpenEpoch::go_on). Epochs of others, committed or not, change nothing about that; not any more
    /// once a new base was begun.
    #[must_use]
    pub fn can_go_on(&self, consumer: u128) -> bool {
        self.acknowledged.as_ref().is_some_and(|acknowledged| acknowledged.consumer == consumer)
    }

    /// Whether writes are tracked.
    #[must_use]
    pub const fn is_armed(&self) -> bool {
        self.armed
    }

    /// The way of tracking.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The memslots that are tracked.
    #[must_use]
    pub fn slots(&self) -> &SlotTable {
        self.reaper.slots()
    }

    /// A handle to the events, which may be read while an epoch is open.
    #[must_use]
    pub fn events(&self) -> EventLog {
        self.reaper.events().clone()
    }

    /// Begins to remember which source reported each page last, two bytes a page; the handle may be read while an epoch is
    /// open. Once begun it goes on, and a second call gives the same handle.
    ///
    /// For an [`Audit`](crate::Audit), which then says of an escaped page who ought to have seen it.
    pub fn remember_reports(&mut self) -> Reports {
        let Self { reaper, method, sources, reports, .. } = self;
        let kinds = sources.iter().map(|source| source.kind());
        reports.get_or_insert_with(|| Reports::new(reaper.slots(), *method, kinds)).clone()
    }

    pub(crate) const fn reports(&self) -> Option<&Reports> {
        self.reports.as_ref()
    }

    /// What holds vCPUs to a rate of writing, while an epoch is open too. It is engaged by nobody yet.
    #[must_use]
    pub fn throttle(&self) -> Throttle {
        let throttle = Throttle::new(self.brakes());
        throttle.measure();
        throttle
    }

    fn brakes(&self) -> Arc<Brakes> {
        self.collector.as_ref().map_or_else(Arc::default, |collector| collector.brakes())
    }

    /// Wakes vCPUs that a throttle holds up: they are to be stopped.
    pub(crate) fn let_go(&self) -> LetGo {
        self.brakes().let_go()
    }

    /// A handle to the collector's counters, which may be read while an epoch is open.
    #[must_use]
    pub fn stats(&self) -> StatsReader {
        StatsReader { stats: self.collector.as_ref().map(|collector| collector.stats()) }
    }

    pub(crate) fn empty(&self) -> Collected {
        Collected::new(self.reaper.slots())
    }

    pub(crate) fn sources(&mut self) -> &mut [Box<dyn Source>] {
        &mut self.sources
    }

    /// What no epoch owns: the base, or what unfinished epochs gave back.
    pub(crate) fn take_carried(&mut self) -> DirtyPages {
        self.carried.take()
    }

    /// What a consumer still holds of memory.
    pub(crate) fn take_acknowledged(&mut self) -> Option<Acknowledged> {
        self.acknowledged.take()
    }

    pub(crate) fn put_acknowledged(&mut self, acknowledged: Option<Acknowledged>) {
        self.acknowledged = acknowledged;
    }

    pub(crate) fn roll_back(&mut self, pages: &DirtyPages) {
        self.carried.union_with(pages);
    }
}

impl Drop for Tracker {
    /// Switches the log off, as far as that goes, and ends the collector's thread.
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.disarm()
        {
            tracing::warn!(%error, "dirty tracking could not be ended cleanly");
        }
        if let Some(collector) = &self.collector {
            collector.stop();
        }
    }
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker")
            .field("method", &self.method)
            .field("armed", &self.armed)
            .field("carried", &self.carried.len())
            .finish_non_exhaustive()
    }
}

/// A handle to the collector's counters.
#[derive(Clone, Debug)]
pub struct StatsReader {
    stats: Option<Arc<Stats>>,
}

impl StatsReader {
    /// The counters now; `None` where there are no rings.
    #[must_use]
    pub fn read(&self) -> Option<CollectorStats> {
        self.stats.as_ref().map(|stats| stats.read())
    }
}
