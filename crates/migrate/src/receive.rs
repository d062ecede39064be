//! The destination's side.

mod adopt;
mod error;
mod hold;
mod kept;
mod seed;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, PageSize, SlotTable};
use ringmark_track::{Audit, BoxError};

use crate::codec::{Ledger, PageStore, Tally};
use crate::handover::{Destination, DestinationDuty};
use crate::link::{Breaker, Link, Listener};
use crate::memory_file::MemoryFile;
use crate::wire::frame::FrameError;
use crate::wire::{Encoding, Message, Offer, Prepared, Refusal, Role, Seed, Session, Standing};
use adopt::Lent;
use kept::Kept;
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

    /// Whether a machine like that of `offer` can be [adopted](Self::adopt): its state is loaded without a write to its memory.
    ///
    /// # Errors
    /// Why not, for people; its pages are sent then.
    fn adopts(&self, _offer: &Offer) -> Result<(), String> {
        Err("the destination's monitor maps no memory of others".into())
    }

    /// As [`accept`](Self::accept), with `memory` that is where it will be, [as a file](crate::memory_file). Until the machine
    /// [runs](Arrival::run) here it is the source's, and is not written.
    ///
    /// # Errors
    /// As of [`accept`](Self::accept).
    fn adopt(&mut self, _offer: &Offer, _memory: MemoryFile) -> Result<Self::Arrival, Refusal> {
        Err(Refusal { what: "the destination's monitor maps no memory of others".into(), advice: None })
    }
}

/// A machine that arrives. Dropped, it never was.
pub trait Arrival {
    /// What becomes of it.
    type Machine;

    /// Its memory.
    fn memory(&self) -> &dyn PageStore;

    /// Pages of its memory that are filled from an old image of the same machine: their hashes are offered to the source, which
    /// sends what differs. What they are worth is not taken on trust; the digest covers them.
    fn seeded(&self) -> Option<DirtyPages> {
        None
    }

    /// Puts the state beside memory in place; nothing runs, and memory that was [adopted](Arriving::adopt) is not written.
    ///
    /// # Errors
    /// If it is not what this host can run; the guest runs on at the source.
    fn load(&mut self, state: &[u8]) -> Result<(), BoxError>;

    /// Lets the guest run. This host alone has it from here on.
    ///
    /// # Errors
    /// If it cannot: the guest exists here and nowhere else, and does not run.
    fn run(self) -> Result<Self::Machine, BoxError>;

    /// When the first vCPU of `machine` entered the guest, which is waited for a little; `None` if none has, or nobody knows.
    fn entered(_machine: &Self::Machine) -> Option<Instant> {
        None
    }
}

/// What a destination does.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// The encodings that it reads.
    pub encodings: Vec<Encoding>,
    /// Connections for pages at most.
    pub streams: u16,
    /// How long what has arrived is kept when the link is lost, for a source that goes on; nothing is kept for zero.
    pub keep: Duration,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        let encodings = crate::send::SendOptions::default().encodings;
        Self { encodings, streams: crate::MOST_STREAMS, keep: Duration::from_secs(60) }
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
/// A source whose migration fails before everything is here costs nothing: `watch` is told, and the next source is waited
/// for. What has arrived is thrown away, unless the link was lost: then it is [kept](ReceiveOptions::keep) for a while, for
/// the same source to go on, and until a machine is offered that does not. If the link is lost when everything is here, only the
/// source knows whether the guest is to run: it is waited for, as is `decide`, by which a person says it. `stop` ends the
/// wait, where nothing is undecided. `watch` is also told while the guest stands still, and is not to take its time.
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
    let mut kept: Option<Kept<A::Arrival>> = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ReceiveError::Stopped);
        }
        if let Some(late) = kept.take_if(|kept| kept.is_over()) {
            watch(ReceiveProgress::TurnedAway(&late.farewell()));
        }
        let Some((mut control, role, _)) = listener.accept(LOOK)? else { continue };
        if role != Role::Control {
            hold::answer_about(&mut control, role, discarded);
            continue;
        }
        let attempt = Attempt::open(&listener, control, arriving, options, stop, &mut kept, watch);
        let attempt = match attempt {
            Ok(attempt) => attempt,
            Err(error) => {
                watch(ReceiveProgress::TurnedAway(&error.to_string()));
                continue;
            }
        };
        let session = attempt.session;
        match attempt.run(&listener, options.keep, decide, watch)? {
            Outcome::Runs(machine) => {
                let answering = Answering::start(listener, session)?;
                return Ok(Arrived { machine, session, answering });
            }
            Outcome::Discarded(why) => {
                discarded = Some(session);
                watch(ReceiveProgress::TurnedAway(&why));
            }
            Outcome::Lost(held, why) => {
                // As this session it never runs here: a source that goes on begins another one.
                discarded = Some(session);
                watch(ReceiveProgress::TurnedAway(&format!(
                    "{why}; what has arrived is kept for {:?}",
                    options.keep
                )));
                kept = Some(held);
            }
        }
    }
}

enum Outcome<A: Arrival> {
    Runs(A::Machine),
    Discarded(String),
    /// The link was lost before everything was here.
    Lost(Kept<A>, String),
}

/// One source's attempt to hand over its machine.
struct Attempt<A> {
    arrival: A,
    control: Link,
    streams: Vec<Link>,
    page_size: PageSize,
    slots: SlotTable,
    session: Session,
    /// The session that this one goes on from.
    from: Option<Session>,
    ledger: Ledger,
    /// The number over what was in the ledger before.
    before: Tally,
    /// Its memory is the source's until it runs here.
    adopted: bool,
    /// The whole of memory is hashed before it runs.
    verify_full: bool,
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
        kept: &mut Option<Kept<A>>,
        watch: &mut dyn FnMut(ReceiveProgress<'_>),
    ) -> Result<Self, ReceiveError> {
        let offer = match Message::receive(&mut control.until(JOINING))? {
            Message::Offer(offer) => offer,
            other => return Err(ReceiveError::OutOfTurn(other.name())),
        };
        let memory = offer.memory().map_err(|error| Refusal { what: error.to_string(), advice: None });
        let resumed = memory.as_ref().ok().and_then(|(page_size, slots)| {
            kept.take_if(|kept| kept.is_resumed_by(&offer, *page_size, slots))
        });
        let is_resumed = resumed.is_some();
        let lent = match &memory {
            Ok((page_size, slots)) if !is_resumed => {
                adopt::ask(&mut control, &offer, (*page_size, slots), &*arriving)?
            }
            _ => Ok(Lent::Nothing(None)),
        };
        let (mut adopted, mut no_memory_file) = (false, None);
        let taken = memory.and_then(|memory| match resumed {
            Some(kept) => Ok((memory, kept.arrival, kept.ledger)),
            None => {
                // Another machine, or the same from the start: what is kept has a name and memory that it may need.
                if let Some(given_up) = kept.take() {
                    watch(ReceiveProgress::TurnedAway(&given_up.farewell()));
                }
                let arrival = match lent? {
                    Lent::File(file) => {
                        adopted = true;
                        arriving.adopt(&offer, file)?
                    }
                    Lent::Nothing(why) => {
                        no_memory_file = why;
                        arriving.accept(&offer)?
                    }
                };
                let ledger = Ledger::new(&memory.1);
                Ok((memory, arrival, ledger))
            }
        });
        let ((page_size, slots), arrival, ledger) = match taken {
            Ok(taken) => taken,
            Err(refusal) => {
                Message::Refuse(refusal.clone()).send(&mut control)?;
                return Err(ReceiveError::Refused(refusal));
            }
        };
        let wants_seed = offer.takes_hashes && !is_resumed && !adopted;
        let pages = arrival.seeded().filter(|pages| wants_seed && !pages.is_empty());
        let key = Session::random()?.half();
        let seed = pages.as_ref().map(|pages| Seed { pages: pages.len(), key });
        let streams = offer.streams.clamp(1, options.streams.clamp(1, crate::MOST_STREAMS));
        let encodings = offer.encodings.iter().filter(|e| options.encodings.contains(e)).copied().collect();
        let token = Session::random()?;
        let (resumed, keeps) = (is_resumed, options.keep.as_secs());
        let from = offer.resume.filter(|_| is_resumed);
        let streams = if adopted { 0 } else { streams };
        let accept = Message::Accept {
            encodings,
            streams,
            token,
            resumed,
            ends_streams: true,
            keeps,
            seed,
            maps_memory_file: adopted,
            no_memory_file,
        };
        let joined = accept.send(&mut control).map_err(ReceiveError::from).and_then(|()| {
            watch(ReceiveProgress::Accepted(&offer));
            let joined = join(listener, &control, token, streams, stop)?;
            if let Some((pages, seed)) = pages.zip(seed) {
                seed::offer(&mut control, arrival.memory(), &pages, seed, &ledger)?;
            }
            Ok(joined)
        });
        let sessions = (offer.session, from);
        match joined {
            Ok(streams) => {
                let (before, side) = (ledger.tally(), Destination::Receiving);
                let (session, from) = sessions;
                let verify_full = offer.verify_full;
                Ok(Self {
                    arrival,
                    control,
                    streams,
                    page_size,
                    slots,
                    session,
                    from,
                    ledger,
                    before,
                    adopted,
                    verify_full,
                    side,
                })
            }
            Err(error) => {
                if is_resumed {
                    *kept = Some(Kept::new(arrival, ledger, page_size, slots, sessions, options.keep));
                }
                Err(error)
            }
        }
    }

    fn run(
        mut self,
        listener: &Listener,
        keep: Duration,
        decide: &mut dyn FnMut() -> Option<Decision>,
        watch: &mut dyn FnMut(ReceiveProgress<'_>),
    ) -> Result<Outcome<A>, ReceiveError> {
        let prepared = match self.take() {
            Ok(prepared) => prepared,
            Err(error) => {
                (self.side, _) = self.side.fail();
                // The source finds out by the end of the connection, too.
                let _ = Message::Failed { reason: error.to_string() }.send(&mut self.control);
                // Memory that the source writes on is nothing to go on from.
                if matches!(error, ReceiveError::Link(_)) && !keep.is_zero() && !self.adopted {
                    let Self { arrival, ledger, page_size, slots, session, from, .. } = self;
                    let kept = Kept::new(arrival, ledger, page_size, slots, (session, from), keep);
                    return Ok(Outcome::Lost(kept, error.to_string()));
                }
                return Ok(Outcome::Discarded(error.to_string()));
            }
        };
        self.side = self.side.prepare();
        let told = Message::Prepared(prepared).send(&mut self.control).map_err(Into::into);
        watch(ReceiveProgress::Prepared);
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
        let before = self.before;
        let ledger = &self.ledger;
        let (control, memory) = (&mut self.control, self.arrival.memory());
        let breakers: Vec<Breaker> = self.streams.iter().map(Link::breaker).collect::<Result<_, _>>()?;
        let control_breaker = control.breaker()?;
        let done = AtomicBool::new(false);
        let (slots, page_size) = (&self.slots, self.page_size);
        let links = std::mem::take(&mut self.streams);
        let (message, tally) = thread::scope(|scope| {
            let (ended, ends) = channel();
            for link in links {
                let incoming = Incoming::new(link, page_size);
                let (done, breaker, ended) = (&done, &control_breaker, ended.clone());
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
                    // Whoever takes it outlives this thread.
                    let _ = ended.send(result);
                });
            }
            drop(ended);
            // Rounds may take hours: as long as the streams live, so does the source. Without streams its guest is stopped by
            // now, and only the hash of its memory takes longer than a word may.
            if !self.adopted || self.verify_full {
                control.be_patient()?;
            } else {
                control.be_impatient()?;
            }
            // The source sends it when every stream has passed its last barrier, or right behind that: then the streams end
            // by themselves once all pages are in memory.
            let message = Message::receive(control);
            done.store(true, Ordering::Release);
            let ended = matches!(message, Ok(Message::Prepare { ends_streams: true, .. }));
            if !ended {
                breakers.iter().for_each(Breaker::break_off);
            }
            let (mut tally, mut failed) = (before, None);
            // Not joined: the end of a thread unmaps its stack, which takes the guest a third of a millisecond of its downtime. A
            // panic is the scope's.
            for result in ends {
                match result {
                    Ok(share) => tally = tally.and(share),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            match (message, failed) {
                (Ok(message @ Message::Abort { .. }), _) | (Ok(message), None) => Ok((message, tally)),
                (_, Some(error)) => Err(error),
                (Err(error), None) => Err(error.into()),
            }
        })?;
        // The source's next word is due as soon as it has this side's: from here on silence means that it is lost.
        self.control.be_impatient()?;
        match message {
            Message::Prepare { state, digest, full_digest, .. } => {
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
fn start<A: Arrival>(arrival: A, link: Option<&mut Link>) -> Result<Outcome<A>, ReceiveError> {
    let begun = Instant::now();
    let machine = arrival.run().map_err(ReceiveError::Run)?;
    // A vCPU that was woken may take this thread's processor for as long as it likes: what passes then is no downtime.
    let entered = A::entered(&machine).filter(|_| link.is_some());
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let resume = nanos(entered.unwrap_or_else(Instant::now).saturating_duration_since(begun));
    let since = nanos(entered.map_or(Duration::ZERO, |entered| entered.elapsed()));
    if let Some(link) = link
        && let Err(error) = (Message::Running { resume, since }).send(link)
    {
        tracing::warn!(%error, "the source has not heard that the guest runs here; it will ask");
    }
    Ok(Outcome::Runs(machine))
}

/// The connections of a session for its pages.
fn join(
    listener: &Listener,
    control: &Link,
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
        if control.is_closed() {
            return Err(FrameError::Io(std::io::ErrorKind::UnexpectedEof.into()).into());
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
