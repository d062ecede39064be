//! The source's side.

pub(crate) mod converge;
mod error;
mod inquire;
mod stream;
mod switch;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, PageSize, SlotTable};
use ringmark_track::{AuditRate, BoxError, Memory, OpenEpoch, Tracker, Vcpus};

use crate::codec::{Encoded, Ledger, Tally};
use crate::handover::Source;
use crate::limit::Limiter;
use crate::link::{Connector, Link};
use crate::report::{Report, Round, Status, milliseconds};
use crate::wire::{Encoding, Message, Offer, OfferedSlot, Role, Session};
use converge::Convergence;
use stream::Outgoing;

pub use error::{DepartError, Departed, SourceGuest};
pub use inquire::inquire;

/// A machine that may leave.
pub trait Departing: Sync {
    /// Its vCPUs and devices, on their way to a standstill.
    type Halted<'m>: Vcpus
    where
        Self: 'm;

    /// Its memory.
    fn memory(&self) -> &dyn Memory;

    /// Its memslots.
    fn slots(&self) -> &SlotTable;

    /// Pages that nobody has ever written, and that are zeros without being read.
    ///
    /// # Errors
    /// If they cannot be told.
    fn holes(&self) -> Result<DirtyPages, BoxError>;

    /// What is to be stopped.
    fn halt(&self) -> Self::Halted<'_>;

    /// The state beside memory, once it is stopped. May write guest memory.
    ///
    /// # Errors
    /// If it cannot be had.
    fn save(&self, halted: &mut Self::Halted<'_>) -> Result<Vec<u8>, BoxError>;

    /// The guest stays stopped: it runs at the destination, or may (`undecided`).
    fn leave(&self, halted: Self::Halted<'_>, undecided: bool);
}

/// What leaves, beside its memory.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The machine's name.
    pub name: String,
    /// `kvm` or `engine`.
    pub hypervisor: String,
    /// `x86_64` and the like.
    pub architecture: String,
    /// vCPUs.
    pub vcpus: u32,
    /// What it has to find at the destination, in the words of the monitor.
    pub needs: Vec<u8>,
}

/// How a machine is to leave.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// Connections for pages.
    pub streams: u16,
    /// The encodings that may be used.
    pub encodings: Vec<Encoding>,
    /// Bytes a second at most.
    pub bandwidth: Option<u64>,
    /// The downtime to aim at.
    pub max_downtime: Duration,
    /// After this long no further round is begun: the guest is stopped, or the migration given up.
    pub max_total: Option<Duration>,
    /// What matters more where both cannot be had: that the guest runs on as it does, or the downtime and the total.
    pub prefer: Prefer,
    /// Bytes of copies kept to send differences to.
    pub held: usize,
    /// Compare the whole of memory, too, before the guest runs.
    pub verify_full: bool,
    /// Hash so much of memory at the cut, and give the migration up if a page is not as it was sent last: a write to it was
    /// reported by nobody.
    pub audit: Option<AuditRate>,
    /// How long a destination that fell silent after the commit is asked before a person is.
    pub ask_for: Duration,
}

/// What gives way if the downtime aimed at cannot be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The goal: the migration is given up and the guest runs on.
    Guest,
    /// The migration: it is completed with the downtime that is possible.
    #[default]
    Downtime,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            streams: 1,
            encodings: vec![
                Encoding::Zero,
                Encoding::Word,
                Encoding::Raw,
                Encoding::Lz4,
                Encoding::Zstd,
                Encoding::Delta,
            ],
            bandwidth: None,
            max_downtime: Duration::from_millis(300),
            max_total: None,
            prefer: Prefer::default(),
            held: 64 << 20,
            verify_full: false,
            audit: None,
            ask_for: Duration::from_secs(10),
        }
    }
}

/// A migration on its way.
#[derive(Clone, Debug)]
pub struct SendProgress<'a> {
    /// What there is to report so far.
    pub report: &'a Report,
    /// Whether the guest stands still.
    pub stopped: bool,
}

/// Everything that one departure consists of.
struct Departure<'a, M> {
    machine: &'a M,
    to: &'a Connector,
    options: &'a SendOptions,
    cancel: &'a AtomicBool,
    session: Session,
    control: Link,
    streams: Vec<Outgoing>,
    ledger: Ledger,
    limiter: Limiter,
    page_size: PageSize,
    begun: Instant,
    report: Report,
    side: Source,
}

/// Sends the machine to `to`, and returns when the guest runs there.
///
/// It runs on here meanwhile, except for the downtime. `tracker` is its own; setting `cancel` calls the migration off, which
/// has an effect until the guest is committed to the destination.
///
/// # Errors
/// [`Departed`] says what failed and what the guest does now: it runs on, with every page of the epoch back in the tracker,
/// or, in the one case that cannot be decided here, it stands still.
pub fn depart<M: Departing>(
    machine: &M,
    identity: &Identity,
    tracker: &mut Tracker,
    to: &Connector,
    options: &SendOptions,
    cancel: &AtomicBool,
    watch: &mut dyn FnMut(&SendProgress<'_>),
) -> Result<Report, Departed> {
    let begun = Instant::now();
    let runs_on = |error: DepartError| Departed::new(error, SourceGuest::RunsOn);
    let mut departure =
        Departure::open(machine, identity, to, options, cancel, begun).map_err(|error| runs_on(*error))?;
    match departure.precopy(tracker, watch) {
        Ok(epoch) => departure.switch_over(epoch, watch),
        Err(error) => {
            departure.call_off(&error);
            Err(runs_on(error))
        }
    }
}

impl<'a, M: Departing> Departure<'a, M> {
    /// Agrees with the destination on everything; no page is sent before.
    fn open(
        machine: &'a M,
        identity: &Identity,
        to: &'a Connector,
        options: &'a SendOptions,
        cancel: &'a AtomicBool,
        begun: Instant,
    ) -> Result<Self, Box<DepartError>> {
        let boxed = |error: DepartError| Box::new(error);
        let page_size = machine.memory().page_size();
        let session = Session::random().map_err(|error| boxed(error.into()))?;
        let (mut control, _) = to.connect(Role::Control).map_err(|error| boxed(error.into()))?;
        let offer = Offer {
            session,
            name: identity.name.clone(),
            hypervisor: identity.hypervisor.clone(),
            architecture: identity.architecture.clone(),
            vcpus: identity.vcpus,
            page_bytes: page_size.bytes(),
            slots: machine
                .slots()
                .iter()
                .map(|slot| OfferedSlot { id: slot.id.raw(), base: slot.base.0, npages: slot.npages })
                .collect(),
            needs: identity.needs.clone(),
            encodings: options.encodings.clone(),
            streams: options.streams.clamp(1, crate::MOST_STREAMS),
            verify_full: options.verify_full,
        };
        Message::Offer(Box::new(offer)).send(&mut control).map_err(|error| boxed(error.into()))?;
        let (encodings, streams, token) = match Message::receive(&mut control).map_err(|e| boxed(e.into()))? {
            Message::Accept { encodings, streams, token } => (encodings, streams, token),
            Message::Refuse(refusal) => return Err(boxed(DepartError::Refused(refusal))),
            other => return Err(boxed(DepartError::OutOfTurn(other.name()))),
        };
        let allowed: Vec<_> = options.encodings.iter().filter(|e| encodings.contains(e)).copied().collect();
        let count = streams.clamp(1, options.streams.clamp(1, crate::MOST_STREAMS));
        let page = usize::try_from(page_size.bytes()).unwrap_or(usize::MAX);
        let held = options.held / page / usize::from(count);
        let mut streams = Vec::new();
        for index in 0..count {
            let (mut link, _) = to.connect(Role::Stream).map_err(|error| boxed(error.into()))?;
            Message::Join { token }.send(&mut link).map_err(|error| boxed(error.into()))?;
            streams.push(Outgoing::new(link, u64::from(index), page_size, &allowed, held));
        }
        let total = machine.slots().total_pages() * page_size.bytes();
        let mut report = Report {
            session: session.to_string(),
            verified: if options.verify_full { "full" } else { "sent-pages" }.into(),
            setup_time: milliseconds(begun.elapsed()),
            ..Report::default()
        };
        (report.ram.total, report.ram.remaining, report.ram.page_size) = (total, total, page_size.bytes());
        Ok(Self {
            machine,
            to,
            options,
            cancel,
            session,
            control,
            streams,
            ledger: Ledger::new(machine.slots()),
            limiter: Limiter::new(options.bandwidth),
            page_size,
            begun,
            report,
            side: Source::Running,
        })
    }

    /// Sends pages in rounds while the guest runs, until the last set is as small as it gets or as was asked for.
    fn precopy<'t>(
        &mut self,
        tracker: &'t mut Tracker,
        watch: &mut dyn FnMut(&SendProgress<'_>),
    ) -> Result<OpenEpoch<'t>, DepartError> {
        // From here on no write is missed. A tracker that is armed already is left as it is: what a migration that fails
        // gives back to it is then what was written, and not every page.
        if !tracker.is_armed() {
            tracker.arm()?;
        }
        let mut epoch = tracker.open()?;
        let mut convergence = Convergence::new(self.options.max_downtime);
        loop {
            let mut pages = epoch.round()?;
            let first = self.report.rounds.is_empty();
            if first {
                pages.insert_all();
            }
            // Holes are looked for after logging was switched on: one that is filled meanwhile is in a later round.
            let holes = if first { Some(self.machine.holes().map_err(DepartError::Holes)?) } else { None };
            self.report.ram.remaining = pages.len() * self.page_size.bytes();
            let begun = Instant::now();
            let sent = self.send(&pages, holes.as_ref())?;
            let elapsed = begun.elapsed();
            convergence.observe(pages.len(), elapsed);
            self.report.ram.precopy_bytes += sent.bytes;
            self.note(&pages, &sent, elapsed, convergence.expected_downtime());
            self.report.ram.dirty_pages_rate = convergence.dirty_pages_rate();
            watch(&SendProgress { report: &self.report, stopped: false });
            let late = self.options.max_total.is_some_and(|most| self.begun.elapsed() >= most);
            match convergence.verdict(late) {
                converge::Verdict::Another => {}
                converge::Verdict::Switch => return Ok(epoch),
                converge::Verdict::Floor { expected } => {
                    tracing::info!(?expected, bytes = sent.bytes, "the rounds do not get smaller");
                    match self.options.prefer {
                        Prefer::Downtime => return Ok(epoch),
                        Prefer::Guest => {
                            return Err(DepartError::Goal { expected, wanted: self.options.max_downtime });
                        }
                    }
                }
            }
        }
    }

    /// Sends `pages` over all streams, and returns when they are in the destination's memory.
    fn send(&mut self, pages: &DirtyPages, holes: Option<&DirtyPages>) -> Result<Encoded, DepartError> {
        let number = u32::try_from(self.report.rounds.len()).unwrap_or(u32::MAX).saturating_add(1);
        let round = stream::Round {
            memory: self.machine.memory(),
            pages,
            holes,
            ledger: &self.ledger,
            limiter: &self.limiter,
            cancel: self.cancel,
            number,
            streams: self.streams.len() as u64,
        };
        let mut done = Encoded::default();
        if let [only] = self.streams.as_mut_slice() {
            return only.round(&round);
        }
        let results: Vec<_> = std::thread::scope(|scope| {
            let round = &round;
            let threads: Vec<_> =
                self.streams.iter_mut().map(|stream| scope.spawn(move || stream.round(round))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for result in results {
            match result {
                Ok(sent) => done.add(sent?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(done)
    }

    fn note(&mut self, pages: &DirtyPages, sent: &Encoded, elapsed: Duration, expected: Duration) {
        let report = &mut self.report;
        let page = self.page_size.bytes();
        report.ram.transferred += sent.bytes;
        report.ram.duplicate += sent.zero + sent.word;
        report.ram.normal += sent.normal;
        report.ram.normal_bytes += sent.normal * page;
        report.ram.delta += sent.delta;
        report.ram.dirty_sync_count += 1;
        report.rounds.push(Round {
            iteration: report.ram.dirty_sync_count,
            pages: pages.len(),
            bytes: sent.bytes,
            elapsed: milliseconds(elapsed),
            expected_downtime: milliseconds(expected),
        });
        report.total_time = milliseconds(self.begun.elapsed());
    }

    fn digest(&self) -> u64 {
        self.streams.iter().fold(Tally::default(), |all, stream| all.and(stream.tally())).digest()
    }

    /// Tells the destination that the guest stays; it would find out by the end of the connection, too.
    fn call_off(&mut self, error: &DepartError) {
        let _ = Message::Abort { session: self.session, reason: error.to_string() }.send(&mut self.control);
        self.report.status =
            if matches!(error, DepartError::Cancelled) { Status::Cancelled } else { Status::Failed };
    }
}
