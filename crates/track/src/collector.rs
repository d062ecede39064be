//! The thread that owns every dirty ring of a VM.

mod pace;
mod ring;
mod rings;
mod signals;
mod stats;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{fmt, io, thread};

use ringmark_abi::Errno;
use ringmark_dirty::{RingError, RingMemory};

use crate::Collected;
use crate::reaper::Reaper;
use crate::throttle::{Brake, Brakes};
use rings::{Rings, Vcpu};

pub use stats::CollectorStats;
pub(crate) use stats::Stats;

/// What a vCPU's full ring gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Entries taken from this vCPU's ring; 0 if a periodic harvest was faster.
    pub entries: u32,
}

/// Why the collector could not do what it was asked for. The pages it has taken so far stay with it, and come with the
/// next harvest that succeeds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The collector's thread has ended: its tracker was dropped, or it panicked.
    #[error("the collector of the dirty rings has ended: nothing tracks this guest any more, stop it")]
    Gone,
    /// The collector's thread could not be started.
    #[error("the collector thread could not be started: {0}")]
    Spawn(#[source] Arc<io::Error>),
    /// No ring of this vCPU was added.
    #[error("no dirty ring was added for vCPU {vcpu}: add it right after the vCPU is created")]
    UnknownRing {
        /// The vCPU.
        vcpu: u32,
    },
    /// The vCPU's ring was added before.
    #[error("the dirty ring of vCPU {vcpu} was added twice")]
    DuplicateRing {
        /// The vCPU.
        vcpu: u32,
    },
    /// The ring's memory is no ring.
    #[error("the dirty ring of vCPU {vcpu} cannot be read: {error}")]
    Ring {
        /// The vCPU.
        vcpu: u32,
        /// What is wrong with it.
        error: RingError,
    },
    /// `KVM_RESET_DIRTY_RINGS` failed.
    #[error(
        "KVM_RESET_DIRTY_RINGS failed: {0}; the pages taken so far are kept and reset with the next harvest"
    )]
    Reset(Errno),
    /// A vCPU leaves the guest for a full ring again and again although its ring is empty.
    #[error(
        "vCPU {vcpu} reports a full dirty ring that is empty: the host has lost count of it, stop the guest"
    )]
    Stuck {
        /// The vCPU.
        vcpu: u32,
    },
}

/// A request to the thread. Each carries the way back; a thread that dies drops it, and the caller learns of it.
enum Request {
    Add { vcpu: u32, memory: Arc<dyn RingMemory>, reply: Reply<Arc<Brake>> },
    RingFull { vcpu: u32, reply: Reply<Drained> },
    HarvestAll { vcpus: Vcpu, reply: Reply<Collected> },
    Pending { reply: Reply<u64> },
    Stop,
}

type Reply<T> = SyncSender<Result<T, CollectError>>;

/// The collector of one VM: its thread, and the way to ask it.
///
/// # Why a thread
/// A kernel since 6.16 leaves `KVM_RESET_DIRTY_RINGS` when a signal is pending and then loses pages that it has
/// counted. A blocked signal is not pending, so all harvesting and resetting is done by one thread on which every
/// signal is blocked, and which runs nothing of the monitor's. The count is compared with what was harvested, but
/// that is the second line: the kernel looks for a signal after the last entry too, and leaves with the right count
/// and the last batch unprotected. The thread owns every ring's cursor, so no two threads can take the same
/// entry, and whoever gets a reply knows that the reset is done and flushed.
///
/// # Why nobody waits for ever
/// The thread waits for requests and for the [reaper lock](Reaper), whose holders wait for nothing. A vCPU that waits
/// in [`RingFull::drain`] is answered although a stop is requested, parks afterwards, and so the stop ends too. If
/// the thread has ended, every request is answered by [`CollectError::Gone`].
#[derive(Debug)]
pub(crate) struct Collector {
    requests: Desk,
    stats: Arc<Stats>,
    brakes: Arc<Brakes>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Collector {
    pub(crate) fn start(reaper: Arc<Reaper>) -> Result<Self, CollectError> {
        let (requests, inbox) = channel();
        let stats = Arc::new(Stats::default());
        let brakes = Arc::new(Brakes::default());
        let mut rings = Rings::new(reaper, Arc::clone(&stats), Arc::clone(&brakes));
        let thread = thread::Builder::new()
            .name("ringmark-reaper".into())
            .spawn(move || {
                signals::block_all();
                serve(&inbox, &mut rings);
            })
            .map_err(|error| CollectError::Spawn(Arc::new(error)))?;
        Ok(Self { requests: Desk::Thread(requests), stats, brakes, thread: Mutex::new(Some(thread)) })
    }

    /// A collector whose work is done by whoever asks, so that a test decides when.
    #[cfg(test)]
    pub(crate) fn here(reaper: Arc<Reaper>) -> Result<Self, CollectError> {
        let stats = Arc::new(Stats::default());
        let brakes = Arc::new(Brakes::default());
        let rings = Rings::new(reaper, Arc::clone(&stats), Arc::clone(&brakes));
        let requests = Desk::Here(Arc::new(Mutex::new(rings)));
        Ok(Self { requests, stats, brakes, thread: Mutex::new(None) })
    }

    pub(crate) fn add(&self, vcpu: u32, memory: Arc<dyn RingMemory>) -> Result<RingFull, CollectError> {
        let brake = ask(&self.requests, |reply| Request::Add { vcpu, memory, reply })?;
        Ok(RingFull { vcpu, requests: self.requests.clone(), brake })
    }

    /// Harvests and resets all rings; returns everything taken since the last call.
    pub(crate) fn harvest_all(&self) -> Result<Collected, CollectError> {
        ask(&self.requests, |reply| Request::HarvestAll { vcpus: Vcpu::Runs, reply })
    }

    /// The same while no vCPU runs: leaves every ring empty, and one that was overrun usable.
    pub(crate) fn harvest_stopped(&self) -> Result<Collected, CollectError> {
        ask(&self.requests, |reply| Request::HarvestAll { vcpus: Vcpu::StandsStill, reply })
    }

    /// Entries that wait in the rings, which are left as they are, and pages taken that nobody has fetched.
    pub(crate) fn pending(&self) -> Result<u64, CollectError> {
        ask(&self.requests, |reply| Request::Pending { reply })
    }

    pub(crate) fn brakes(&self) -> Arc<Brakes> {
        Arc::clone(&self.brakes)
    }

    pub(crate) fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Ends the thread. Handles of vCPUs that live on get [`CollectError::Gone`].
    pub(crate) fn stop(&self) {
        // Both fail only if the thread has ended, which is what is wanted.
        let _ = self.requests.send(Request::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// What a vCPU's thread does when `KVM_RUN` returns with `KVM_EXIT_DIRTY_RING_FULL`.
///
/// The exit comes *before* the store that found the ring full: the vCPU is to be entered again afterwards.
#[derive(Clone, Debug)]
pub struct RingFull {
    vcpu: u32,
    requests: Desk,
    brake: Arc<Brake>,
}

impl RingFull {
    /// The vCPU whose ring it is.
    #[must_use]
    pub const fn vcpu(&self) -> u32 {
        self.vcpu
    }

    /// Hands the full ring over, and returns when it is drained and its pages are protected again.
    ///
    /// Only this ring is taken; the pages wait in the tracker for the next round.
    ///
    /// # Errors
    /// The guest must not run on untracked: on [`CollectError::Gone`] and [`CollectError::Stuck`] the vCPU's thread
    /// stops; any other error may be tried again.
    pub fn drain(&self) -> Result<Drained, CollectError> {
        let drained = ask(&self.requests, |reply| Request::RingFull { vcpu: self.vcpu, reply })?;
        self.brake.rest_shortly();
        Ok(drained)
    }

    /// To be called before every entry of the guest by a monitor that lets vCPUs be [throttled](crate::Throttle): waits while
    /// this one has written more than its share, and costs next to nothing otherwise. Look afterwards whether the
    /// vCPU is to be stopped.
    pub fn rest(&self) {
        self.brake.rest();
    }

    /// Ends the [`rest`](Self::rest) that is under way, or else the next one; to be called where the vCPU is kicked in order to
    /// be stopped, other than by a [`Cut`](crate::Cut).
    pub fn wake(&self) {
        self.brake.wake();
    }

    /// How the vCPU is made to leave the guest, so that its thread comes to [`rest`](Self::rest); called by the collector, and
    /// not to wait for anything. The first one counts.
    pub fn kick_with(&self, kick: impl Fn() + Send + Sync + 'static) {
        self.brake.kick_with(Box::new(kick));
    }
}

/// Where requests are handed in.
#[derive(Clone)]
enum Desk {
    Thread(Sender<Request>),
    #[cfg(test)]
    Here(Arc<Mutex<Rings>>),
}

impl Desk {
    fn send(&self, request: Request) -> Result<(), CollectError> {
        match self {
            Self::Thread(requests) => requests.send(request).map_err(|_| CollectError::Gone),
            #[cfg(test)]
            Self::Here(rings) => {
                answer(request, &mut rings.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

fn ask<T>(requests: &Desk, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, CollectError> {
    let (reply, answer) = sync_channel(1);
    requests.send(request(reply))?;
    answer.recv().map_err(|_| CollectError::Gone)?
}

fn serve(inbox: &Receiver<Request>, rings: &mut Rings) {
    loop {
        let request = match rings.next_look() {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => inbox.recv_timeout(wait),
        };
        match request {
            Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(request) => answer(request, rings),
            Err(RecvTimeoutError::Timeout) => rings.look(),
        }
    }
}

fn answer(request: Request, rings: &mut Rings) {
    // A caller that is gone needs no answer.
    match request {
        Request::Add { vcpu, memory, reply } => drop(reply.send(rings.add(vcpu, memory))),
        Request::RingFull { vcpu, reply } => drop(reply.send(rings.ring_full(vcpu))),
        Request::HarvestAll { vcpus, reply } => drop(reply.send(rings.harvest_all(vcpus))),
        Request::Pending { reply } => drop(reply.send(Ok(rings.pending()))),
        Request::Stop => {}
    }
}
