//! The source's side.

pub(crate) mod beside;
pub(crate) mod converge;
mod error;
mod foresee;
mod frontier;
mod in_place;
mod inquire;
mod options;
mod predicting;
mod resume;
mod rounds;
mod stream;
mod switch;

use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, PageSize, SlotTable};
use ringmark_track::{BoxError, Memory, OpenEpoch, Throttle, Tracker, Vcpus};

use crate::codec::{Encoded, Ledger, Seeded, Tally};
use crate::handover::Source;
use crate::limit::Limiter;
use crate::link::{Connector, Link};
use crate::report::{MemoryBy, Report, Round, milliseconds};
use crate::wire::{Message, Offer, OfferedSlot, Role, Seed, Session};
use converge::Convergence;
use predicting::{Predicting, Wanted};
use stream::{Order, Outgoing};

pub use error::{DepartError, Departed, SourceGuest};
pub use inquire::inquire;
pub use options::{MemoryWish, Prefer, SendOptions};
pub use resume::Resumable;

/// Pages that are sent over all streams sooner than threads for them are started.
const FEW: u64 = 512;
/// The downtime beside its pages, before it is known: kick, state, and three times there and back.
pub(crate) const ASSUMED_OVERHEAD: Duration = Duration::from_micros(500);

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

    /// The file that its memory is, for a destination on the same host to [map](crate::memory_file), memslot behind memslot in
    /// their order: shared, sealed against shrinking, and whole.
    ///
    /// # Errors
    /// Why there is none, or none that may be mapped elsewhere, for people.
    fn memory_file(&self) -> Result<BorrowedFd<'_>, String> {
        Err("its monitor hands no memory over".into())
    }

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
    convergence: Convergence,
    /// What was harvested beside the last round, and is still to be sent.
    owed: DirtyPages,
    /// Computes a prediction.
    predicting: Option<Predicting>,
    /// Dropped, and so released, however the departure ends.
    throttle: Option<Throttle>,
    /// What the destination has of an old image, until the first round is over.
    seeded: Option<Seeded>,
    /// Whether streams end by themselves.
    ends_streams: bool,
    /// Whether the destination keeps what it has if the link is lost.
    keeps: bool,
    /// What a departure before this one left.
    kept: Option<Resumable>,
    /// The number over what is in the ledger from there.
    before: Tally,
    /// Tells this departure's acknowledgements from others.
    consumer: u128,
    /// The destination was asked to prepare, and may be.
    asked: bool,
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
    Departure::open(machine, identity, to, options, cancel, None)?.leave(tracker, watch)
}

/// Goes on with a migration whose link was cut, as [`depart`] does: where the destination still holds what it had and the tracker
/// [knows](Resumable::fits) what that is, only what it has not confirmed and what was written since is sent; else everything is.
///
/// # Errors
/// As [`depart`].
#[allow(clippy::too_many_arguments, reason = "those of `depart` and what it left")]
pub fn resume<M: Departing>(
    machine: &M,
    identity: &Identity,
    tracker: &mut Tracker,
    to: &Connector,
    options: &SendOptions,
    resumable: Resumable,
    cancel: &AtomicBool,
    watch: &mut dyn FnMut(&SendProgress<'_>),
) -> Result<Report, Departed> {
    let resumable = Some(resumable).filter(|resumable| resumable.fits(tracker, machine.slots()));
    Departure::open(machine, identity, to, options, cancel, resumable)?.leave(tracker, watch)
}

impl<'a, M: Departing> Departure<'a, M> {
    /// Agrees with the destination on everything; no page is sent before.
    fn open(
        machine: &'a M,
        identity: &Identity,
        to: &'a Connector,
        options: &'a SendOptions,
        cancel: &'a AtomicBool,
        resumable: Option<Resumable>,
    ) -> Result<Self, Departed> {
        let begun = Instant::now();
        let (mut resume, mut kept) = (None, None);
        if let Some(resumable) = resumable {
            resume = Some(resumable.session);
            kept = Some(resumable);
        }
        match Self::agree(machine, identity, to, options, cancel, resume, begun) {
            Ok((mut departure, resumed)) => {
                departure.report.resumed = resumed;
                departure.kept = kept.filter(|_| resumed);
                Ok(departure)
            }
            // What the destination holds it holds on.
            Err(error) => Err(Departed::new(*error, SourceGuest::RunsOn).resumable(kept)),
        }
    }

    fn agree(
        machine: &'a M,
        identity: &Identity,
        to: &'a Connector,
        options: &'a SendOptions,
        cancel: &'a AtomicBool,
        resume: Option<Session>,
        begun: Instant,
    ) -> Result<(Self, bool), Box<DepartError>> {
        let boxed = |error: DepartError| Box::new(error);
        let page_size = machine.memory().page_size();
        let session = Session::random().map_err(|error| boxed(error.into()))?;
        let (mut control, _) = to.connect(Role::Control).map_err(|error| boxed(error.into()))?;
        let file = in_place::offered(machine, options, &control).map_err(boxed)?;
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
            resume,
            takes_hashes: true,
            has_memory_file: file.is_ok(),
        };
        Message::Offer(Box::new(offer)).send(&mut control).map_err(|error| boxed(error.into()))?;
        let total = machine.slots().total_pages() * page_size.bytes();
        let (answer, handed) =
            in_place::answer(&mut control, file.as_ref().ok().copied(), total).map_err(boxed)?;
        let (encodings, streams, token, resumed, ends_streams, keeps, seed, mapped) = match answer {
            Message::Accept {
                encodings,
                streams,
                token,
                resumed,
                ends_streams,
                keeps,
                seed,
                maps_memory_file,
                no_memory_file,
            } => {
                let mapped = in_place::mapped(file, handed, options, maps_memory_file, no_memory_file);
                let mapped = mapped.inspect_err(|error| in_place::part(&mut control, session, error));
                let resumed = resumed && resume.is_some();
                (encodings, streams, token, resumed, ends_streams, keeps, seed, mapped.map_err(boxed)?)
            }
            Message::Refuse(refusal) => return Err(boxed(DepartError::Refused(refusal))),
            other => return Err(boxed(DepartError::OutOfTurn(other.name()))),
        };
        let allowed: Vec<_> = options.encodings.iter().filter(|e| encodings.contains(e)).copied().collect();
        let count = streams.clamp(1, options.streams.clamp(1, crate::MOST_STREAMS));
        let page = usize::try_from(page_size.bytes()).unwrap_or(usize::MAX);
        let held = options.held / page / usize::from(count);
        let count = if mapped.is_ok() { 0 } else { count };
        let mut streams = Vec::new();
        for index in 0..count {
            let (mut link, _) = to.connect(Role::Stream).map_err(|error| boxed(error.into()))?;
            Message::Join { token }.send(&mut link).map_err(|error| boxed(error.into()))?;
            streams.push(Outgoing::new(link, u64::from(index), page_size, &allowed, held, machine.slots()));
        }
        let seeded =
            seed.map(|seed| hashes(&mut control, seed, machine.slots())).transpose().map_err(boxed)?;
        let mut report = Report {
            session: session.to_string(),
            verified: if options.verify_full { "full" } else { "sent-pages" }.into(),
            setup_time: milliseconds(begun.elapsed()),
            ..Report::default()
        };
        (report.ram.total, report.ram.remaining, report.ram.page_size) = (total, total, page_size.bytes());
        in_place::note(&mut report, mapped);
        let departure = Self {
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
            convergence: Convergence::new(options.max_downtime, ASSUMED_OVERHEAD),
            owed: DirtyPages::new(machine.slots()),
            predicting: None,
            throttle: None,
            seeded,
            ends_streams,
            keeps: keeps > 0 && count > 0,
            kept: None,
            before: Tally::default(),
            consumer: session.number(),
            asked: false,
            side: Source::Running,
        };
        Ok((departure, resumed))
    }

    fn leave(
        mut self,
        tracker: &mut Tracker,
        watch: &mut dyn FnMut(&SendProgress<'_>),
    ) -> Result<Report, Departed> {
        if self.report.memory == MemoryBy::Descriptor {
            return self.hand_over(watch);
        }
        match self.begin(tracker) {
            Ok(epoch) => self.travel(epoch, watch),
            Err(error) => Err(self.stay(error)),
        }
    }

    /// From here on no write is missed.
    fn begin<'t>(&mut self, tracker: &'t mut Tracker) -> Result<OpenEpoch<'t>, DepartError> {
        self.throttle = self.options.throttle.then(|| tracker.throttle());
        if let Some(kept) = self.kept.take() {
            self.consumer = kept.consumer;
            self.ledger = kept.ledger;
            self.before = self.ledger.tally();
            let mut epoch = tracker.open()?;
            // Looked at before it was offered, and nobody else has had the tracker since.
            if epoch.go_on(self.consumer) {
                return Ok(epoch);
            }
            return Err(DepartError::NothingHeld);
        }
        // A tracker that is armed already is left as it is: what a migration that fails gives back to it is then what was
        // written, and not every page.
        if !tracker.is_armed() {
            tracker.arm()?;
        }
        Ok(tracker.open()?)
    }

    /// The goal is missed by `expected`. What it would take to meet it is [said later](Self::stay).
    fn goal(&self, expected: Duration) -> DepartError {
        DepartError::Goal { expected, wanted: self.options.max_downtime, advice: String::new() }
    }

    fn can_slow(&self) -> bool {
        self.throttle.as_ref().is_some_and(Throttle::can_slow)
    }

    /// Whether no time is left for another round.
    fn is_late(&self) -> bool {
        self.options.max_total.is_some_and(|most| self.begun.elapsed() >= most)
    }

    /// Sends `pages` over all streams, and returns when they are in the destination's memory.
    ///
    /// `last`: nothing follows, and they are not waited for where that was agreed.
    fn send(&mut self, pages: &DirtyPages, last: bool) -> Result<Encoded, DepartError> {
        let mut streams = std::mem::take(&mut self.streams);
        let last = last && self.ends_streams;
        let round = stream::Round { last, ..self.round(pages, None, streams.len()) };
        let sent = Self::send_over(&mut streams, &round);
        self.streams = streams;
        sent
    }

    /// What all streams of the next round share.
    fn round<'r>(
        &'r self,
        pages: &'r DirtyPages,
        holes: Option<&'r DirtyPages>,
        streams: usize,
    ) -> stream::Round<'r> {
        self.limiter.begin();
        stream::Round {
            memory: self.machine.memory(),
            pages,
            holes,
            seeded: self.seeded.as_ref(),
            ledger: &self.ledger,
            frontier: None,
            limiter: &self.limiter,
            cancel: self.cancel,
            number: u32::try_from(self.report.rounds.len()).unwrap_or(u32::MAX).saturating_add(1),
            streams: streams as u64,
            order: Order::Ascending,
            last: false,
        }
    }

    fn send_over(streams: &mut [Outgoing], round: &stream::Round<'_>) -> Result<Encoded, DepartError> {
        let mut done = Encoded::default();
        if streams.len() == 1 || round.pages.len() <= FEW {
            for stream in streams.iter_mut() {
                done.add(stream.share(round)?);
            }
            streams.iter_mut().try_for_each(|stream| stream.settle(round))?;
            return Ok(done);
        }
        std::thread::scope(|scope| {
            let (done, ended) = channel();
            let (first, others) = streams.split_at_mut(1);
            for stream in others {
                let done = done.clone();
                scope.spawn(move || {
                    // Whoever waits for it outlives this thread.
                    let _ = done.send(stream.round(round));
                });
            }
            drop(done);
            let own = first.iter_mut().map(|stream| stream.round(round)).collect::<Vec<_>>();
            Encoded::sum(own.into_iter().chain(ended))
        })
    }

    fn note(&mut self, pages: &DirtyPages, sent: &Encoded, elapsed: Duration, expected: Duration) {
        let report = &mut self.report;
        let page = self.page_size.bytes();
        report.ram.transferred += sent.bytes;
        report.ram.duplicate += sent.zero + sent.word;
        report.ram.normal += sent.normal;
        report.ram.normal_bytes += sent.normal * page;
        report.ram.delta += sent.delta;
        report.ram.known += sent.known;
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
        self.streams.iter().fold(self.before, |all, stream| all.and(stream.tally())).digest()
    }

    /// Tells the destination that the guest stays; it would find out by the end of the connection, too. After a cut link it
    /// is not told, and keeps what it has.
    fn stay(mut self, mut error: DepartError) -> Departed {
        // What it would take is found out here, where the guest runs again.
        if let DepartError::Goal { advice, .. } = &mut error {
            self.take_prediction(Wanted::WithRemedies);
            *advice = self.advice();
        }
        let cut = matches!(error, DepartError::Link(_)) && self.keeps && !self.asked;
        if cut {
            let resumable = Resumable { session: self.session, consumer: self.consumer, ledger: self.ledger };
            return Departed::new(error, SourceGuest::RunsOn).resumable(Some(resumable));
        }
        let _ = Message::Abort { session: self.session, reason: error.to_string() }.send(&mut self.control);
        Departed::new(error, SourceGuest::RunsOn)
    }
}

/// The hashes that the destination announced.
fn hashes(control: &mut Link, seed: Seed, slots: &SlotTable) -> Result<Seeded, DepartError> {
    let mut seeded = Seeded::new(seed, slots)?;
    while seeded.is_incomplete() {
        match Message::receive(control)? {
            Message::Hashes(hashes) => seeded.take(&hashes, slots)?,
            other => return Err(DepartError::OutOfTurn(other.name())),
        }
    }
    Ok(seeded)
}
