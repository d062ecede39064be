//! The destination's side.

mod error;
mod hold;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::{PageSize, SlotTable};
use ringmark_track::{Audit, BoxError};

use crate::codec::{Ledger, PageStore, Tally};
use crate::handover::{Destination, DestinationDuty};
use crate::link::{Breaker, Link, Listener};
use crate::wire::{Encoding, Message, Offer, Prepared, Refusal, Role, Session, Standing};
use stream::Incoming;

pub use error::{Arrived, ReceiveError};
pub use hold::{Answering, Decision};

/// How often whoever waits looks whether it was called off.
const LOOK: Duration = Duration::from_millis(200);
/// How long a source whose stream has ended may take to say why.
const PARTING: Duration = Duration::from_secs(1);
/// How long a source may take to open its connections for pages.
const JOINING: Duration = Duration::from_secs(10);

/// Makes machines of what arrives.
pub trait Arriving {
    /// A machine that arrives.
    type Arrival: Arrival;

    /// Whether the machine can be run here, and its empty memory if so. Everything that can be made before its pages come
    /// is made here: what is left is downtime.
    ///
    /// # Errors
    /// Why it cannot; the source is told, and its guest runs on.
    fn accept(&mut self, offer: &Offer) -> Result<Self::Arrival, Refusal>;
}

/// A machine that arrives. Dropped, it never was.
pub trait Arrival {
    /// What becomes of it.
    type Machine;

    /// Its memory.
    fn memory(&self) -> &dyn PageStore;

    /// Puts the state beside memory in place; nothing runs.
    ///
    /// # Errors
    /// If it is not what this host can run; the guest runs on at the source.
    fn load(&mut self, state: &[u8]) -> Result<(), BoxError>;

    /// Lets the guest run. This host alone has it from here on.
    ///
    /// # Errors
    /// If it cannot: the guest exists here and nowhere else, and does not run.
    fn run(self) -> Result<Self::Machine, BoxError>;
}

/// What a destination does.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// The encodings that it reads.
    pub encodings: Vec<Encoding>,
    /// Connections for pages at most.
    pub streams: u16,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        let encodings = crate::send::SendOptions::default().encodings;
        Self { encodings, streams: crate::MOST_STREAMS }
    }
}

/// An arrival on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveProgress<'a> {
    /// A source was accepted.
    Accepted(&'a Offer),
    /// A source or a stranger was turned away, and the next one is waited for.
    TurnedAway(&'a str),
    /// Everything is here and the source decides.
    Prepared,
    /// The link was lost before the source's word came: nothing runs here, and nothing is thrown away.
    Undecided(Session),
}

/// Waits for a machine at `listener`, and returns when it runs here.
///
/// A source whose migration fails before everything is here costs nothing: what has arrived is thrown away, `watch` is told,
/// and the next source is waited for. If the link is lost when everything is here, only the source knows whether the guest
/// is to run: it is waited for, as is `decide`, by which a person says it. `stop` ends the wait, where nothing is undecided.
///
/// # Errors
/// [`ReceiveError`].
pub fn receive<A: Arriving>(
    listener: Listener,
    arriving: &mut A,
    options: &ReceiveOptions,
    stop: &AtomicBool,
    decide: &mut dyn FnMut() -> Option<Decision>,
    watch: &mut dyn FnMut(ReceiveProgress<'_>),
) -> Result<Arrived<<A::Arrival as Arrival>::Machine>, ReceiveError> {
    // A source that has committed may ask for it: only this word lets it run its guest again.
    let mut discarded = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ReceiveError::Stopped);
        }
        let Some((mut control, role, _)) = listener.accept(LOOK)? else { continue };
        if role != Role::Control {
            hold::answer_about(&mut control, role, discarded);
            continue;
        }
        let attempt = Attempt::open(&listener, control, arriving, options, stop, watch);
        let attempt = match attempt {
            Ok(attempt) => attempt,
            Err(error) => {
                watch(ReceiveProgress::TurnedAway(&error.to_string()));
                continue;
            }
        };
        let session = attempt.session;
        match attempt.run(&listener, decide, watch)? {
            Outcome::Runs(machine) => {
                let answering = Answering::start(listener, session)?;
                return Ok(Arrived { machine, session, answering });
            }
            Outcome::Discarded(why) => {
                discarded = Some(session);
                watch(ReceiveProgress::TurnedAway(&why));
            }
        }
    }
}

enum Outcome<M> {
    Runs(M),
    Discarded(String),
}

/// One source's attempt to hand over its machine.
struct Attempt<A> {
    arrival: A,
    control: Link,
    streams: Vec<Link>,
    page_size: PageSize,
    slots: SlotTable,
    session: Session,
    side: Destination,
}

impl<A: Arrival> Attempt<A> {
    /// Agrees with the source on everything.
    fn open<F: Arriving<Arrival = A>>(
        listener: &Listener,
        mut control: Link,
        arriving: &mut F,
        options: &ReceiveOptions,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(ReceiveProgress<'_>),
    ) -> Result<Self, ReceiveError> {
        let offer = match Message::receive(&mut control.until(JOINING))? {
            Message::Offer(offer) => offer,
            other => return Err(ReceiveError::OutOfTurn(other.name())),
        };
        let taken = offer
            .memory()
            .map_err(|error| Refusal { what: error.to_string(), advice: None })
            .and_then(|memory| Ok((memory, arriving.accept(&offer)?)));
        let ((page_size, slots), arrival) = match taken {
            Ok(taken) => taken,
            Err(refusal) => {
                Message::Refuse(refusal.clone()).send(&mut control)?;
                return Err(ReceiveError::Refused(refusal));
            }
        };
        let streams = offer.streams.clamp(1, options.streams.clamp(1, crate::MOST_STREAMS));
        let encodings = offer.encodings.iter().filter(|e| options.encodings.contains(e)).copied().collect();
        let token = Session::random()?;
        Message::Accept { encodings, streams, token }.send(&mut control)?;
        watch(ReceiveProgress::Accepted(&offer));
        let streams = join(listener, token, streams, stop)?;
        let side = Destination::Receiving;
        Ok(Self { arrival, control, streams, page_size, slots, session: offer.session, side })
    }

    fn run(
        mut self,
        listener: &Listener,
        decide: &mut dyn FnMut() -> Option<Decision>,
        watch: &mut dyn FnMut(ReceiveProgress<'_>),
    ) -> Result<Outcome<A::Machine>, ReceiveError> {
        let prepared = match self.take() {
            Ok(prepared) => prepared,
            Err(error) => {
                (self.side, _) = self.side.fail();
                // The source finds out by the end of the connection, too.
                let _ = Message::Failed { reason: error.to_string() }.send(&mut self.control);
                return Ok(Outcome::Discarded(error.to_string()));
            }
        };
        self.side = self.side.prepare();
        watch(ReceiveProgress::Prepared);
        let told = Message::Prepared(prepared).send(&mut self.control).map_err(Into::into);
        let word = told.and_then(|()| Message::receive(&mut self.control).map_err(ReceiveError::from));
        let (duty, link) = match word {
            Ok(Message::Commit { session }) if session == self.session => {
                let (side, duty) = self.side.commit();
                self.side = side;
                (duty, Some(&mut self.control))
            }
            Ok(Message::Abort { session, reason }) if session == self.session => {
                (self.side, _) = self.side.abort();
                return Ok(Outcome::Discarded(reason));
            }
            _ => {
                (self.side, _) = self.side.fail();
                (DestinationDuty::Hold, None)
            }
        };
        if duty == DestinationDuty::Run {
            return start(self.arrival, link);
        }
        watch(ReceiveProgress::Undecided(self.session));
        let (side, mut link) = hold::wait(listener, self.session, self.side, decide)?;
        match side {
            Destination::Running => start(self.arrival, link.as_mut()),
            _ => Ok(Outcome::Discarded("it was given up after its source had been lost".into())),
        }
    }

    /// Everything up to the promise: pages, state, digests.
    fn take(&mut self) -> Result<Prepared, ReceiveError> {
        let ledger = Ledger::new(&self.slots);
        let (control, memory) = (&mut self.control, self.arrival.memory());
        let breakers: Vec<Breaker> = self.streams.iter().map(Link::breaker).collect::<Result<_, _>>()?;
        let control_breaker = control.breaker()?;
        let done = AtomicBool::new(false);
        let (slots, page_size) = (&self.slots, self.page_size);
        let links = std::mem::take(&mut self.streams);
        let (message, tally) = thread::scope(|scope| {
            let threads: Vec<_> = links
                .into_iter()
                .map(|link| {
                    let incoming = Incoming::new(link, page_size);
                    let (ledger, done, breaker) = (&ledger, &done, &control_breaker);
                    scope.spawn(move || {
                        let result = incoming.run(slots, memory, ledger, done);
                        if let Err(error) = &result {
                            // Whoever waits for the source's next message is to hear of it; but a source that gives up
                            // closes its connections and says why on that one.
                            let until = Instant::now() + PARTING;
                            while matches!(error, ReceiveError::Link(_))
                                && !done.load(Ordering::Acquire)
                                && Instant::now() < until
                            {
                                thread::sleep(PARTING / 50);
                            }
                            breaker.break_off();
                        }
                        result
                    })
                })
                .collect();
            // Rounds may take hours: as long as the streams live, so does the source.
            control.be_patient()?;
            // The source sends it when every stream has passed the last barrier: all pages are in memory.
            let message = Message::receive(control);
            done.store(true, Ordering::Release);
            breakers.iter().for_each(Breaker::break_off);
            let (mut tally, mut failed) = (Tally::default(), None);
            for thread in threads {
                match thread.join() {
                    Ok(Ok(share)) => tally = tally.and(share),
                    Ok(Err(error)) => failed = failed.or(Some(error)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            match (message, failed) {
                (Ok(message @ Message::Abort { .. }), _) | (Ok(message), None) => Ok((message, tally)),
                (_, Some(error)) => Err(error),
                (Err(error), None) => Err(error.into()),
            }
        })?;
        match message {
            Message::Prepare { state, digest, full_digest } => {
                self.verify_and_load(&state, digest, tally.digest(), full_digest)
            }
            Message::Abort { reason, .. } => Err(ReceiveError::Aborted(reason)),
            other => Err(ReceiveError::OutOfTurn(other.name())),
        }
    }

    fn verify_and_load(
        &mut self,
        state: &[u8],
        sent: u64,
        received: u64,
        full: Option<u64>,
    ) -> Result<Prepared, ReceiveError> {
        let begun = Instant::now();
        if sent != received {
            return Err(ReceiveError::Digest { what: "the pages that were sent", sent, received });
        }
        if let Some(sent) = full {
            let received = Audit::begin(&self.slots, self.arrival.memory())?.digest().unwrap_or_default();
            if sent != received {
                return Err(ReceiveError::Digest { what: "the whole of memory", sent, received });
            }
        }
        let digest = begun.elapsed();
        self.arrival.load(state).map_err(ReceiveError::Load)?;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Ok(Prepared { pages: 0, digest: nanos(digest), load: nanos(begun.elapsed() - digest) })
    }
}

/// Lets the guest run, and tells the source.
fn start<A: Arrival>(arrival: A, link: Option<&mut Link>) -> Result<Outcome<A::Machine>, ReceiveError> {
    let begun = Instant::now();
    let machine = arrival.run().map_err(ReceiveError::Run)?;
    let resume = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    if let Some(link) = link
        && let Err(error) = (Message::Running { resume }).send(link)
    {
        tracing::warn!(%error, "the source has not heard that the guest runs here; it will ask");
    }
    Ok(Outcome::Runs(machine))
}

/// The connections of a session for its pages.
fn join(
    listener: &Listener,
    token: Session,
    count: u16,
    stop: &AtomicBool,
) -> Result<Vec<Link>, ReceiveError> {
    let mut streams = Vec::new();
    let until = Instant::now() + JOINING;
    while streams.len() < usize::from(count) {
        let left = until.saturating_duration_since(Instant::now());
        if stop.load(Ordering::Relaxed) {
            return Err(ReceiveError::Stopped);
        }
        if left.is_zero() {
            return Err(ReceiveError::Joining { count, joined: streams.len() });
        }
        let Some((mut link, role, _)) = listener.accept(left.min(LOOK))? else { continue };
        if role != Role::Stream {
            hold::answer(&mut link, role, Some(Standing::Receiving));
            continue;
        }
        match Message::receive(&mut link.until(left)) {
            Ok(Message::Join { token: shown }) if shown == token => streams.push(link),
            _ => tracing::warn!("a connection that belongs to no accepted migration was turned away"),
        }
    }
    Ok(streams)
}

/// Shared by whoever answers questions.
pub(crate) type SharedStop = Arc<AtomicBool>;
