//! The threads that bring memory.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use ringmark_dirty::{DirtyPages, SlotTable};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;

use super::{Arrival, Arriving, LazyError, LoadCause, LoadError};

/// Threads that answer faults: as many pages are asked of a slow store at once.
pub(crate) const SERVERS: usize = 4;

/// The threads that bring a machine's memory: servers for whoever waits, and a loader for the rest.
///
/// Dropped, it lets everyone go who waits and ends the threads; so the vCPUs have ended before.
#[derive(Debug)]
pub(crate) struct Loading {
    arrival: Arc<dyn Arriving>,
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    /// What the loader waits for; dropped unsent, it ends.
    background: Option<Sender<()>>,
}

impl Loading {
    /// Starts to bring what somebody waits for. The rest is [begun](Self::begin) later: `first` before everything else.
    ///
    /// # Errors
    /// If there is no thread left.
    pub(crate) fn start(
        arrival: Arc<Arrival>,
        slots: &SlotTable,
        first: DirtyPages,
    ) -> Result<Self, LazyError> {
        let mut loading = Self::of(Arc::clone(&arrival) as _)?;
        for number in 0..SERVERS {
            let arrival = Arc::clone(&arrival);
            loading.spawn(format!("fault{number}"), move |stop| serve(&arrival, stop))?;
        }
        let slots = slots.clone();
        let (background, begun) = channel();
        loading.spawn("load".into(), move |_| {
            if begun.recv().is_ok() {
                load(&arrival, &slots, &first);
            }
        })?;
        loading.background = Some(background);
        Ok(loading)
    }

    /// Of a memory that arrives in some other way, by threads that are still to be [spawned](Self::spawn).
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn of(arrival: Arc<dyn Arriving>) -> Result<Self, LazyError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(|error| LazyError::Thread(error.into()))?);
        Ok(Self { arrival, stop, threads: Vec::new(), background: None })
    }

    /// Begins to bring what nobody waits for yet: not before, lest it take the processors from whoever makes the machine.
    pub(crate) fn begin(&self) {
        // A loader that is gone has failed, and the machine with it.
        let _ = self.background.as_ref().map(|background| background.send(()));
    }

    pub(crate) fn arrival(&self) -> &dyn Arriving {
        &*self.arrival
    }

    pub(crate) fn handle(&self) -> Arc<dyn Arriving> {
        Arc::clone(&self.arrival)
    }

    /// Adds a thread that brings memory until the descriptor that it is given can be read.
    ///
    /// # Errors
    /// If there is no thread left.
    pub(crate) fn spawn(
        &mut self,
        name: String,
        work: impl FnOnce(&OwnedFd) + Send + 'static,
    ) -> Result<(), LazyError> {
        let (arrival, stop) = (Arc::clone(&self.arrival), Arc::clone(&self.stop));
        let work = move || {
            block_signals();
            let guard = FailOnPanic(&*arrival);
            work(&stop);
            drop(guard);
        };
        self.threads.push(thread::Builder::new().name(name).spawn(work).map_err(LazyError::Thread)?);
        Ok(())
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.arrival.abandon();
        self.background = None;
        // A counter that is never read: every server finds it, however many there are.
        if let Err(error) = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()) {
            tracing::warn!(%error, "the threads that bring memory could not be told to end");
            return;
        }
        for thread in self.threads.drain(..) {
            // One that panicked has said so, and the machine was ended by it.
            let _ = thread.join();
        }
    }
}

/// A thread that panics brings nothing any more: the machine ends rather than wait for ever.
struct FailOnPanic<'a>(&'a dyn Arriving);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(LoadError::background(LoadCause::Panicked));
        }
    }
}

/// Answers faults until it is told to stop.
fn serve(arrival: &Arrival, stop: &OwnedFd) {
    loop {
        let mut fds =
            [PollFd::new(arrival, PollFlags::IN), PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return arrival.fail(LoadError::background(LoadCause::Server(error.into()))),
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        loop {
            match arrival.uffd.next_fault() {
                Ok(Some(fault)) => arrival.serve(fault.address),
                Ok(None) => break,
                Err(error) => return arrival.fail(LoadError::background(LoadCause::Server(error))),
            }
        }
    }
}

/// Brings the working set, then the rest.
fn load(arrival: &Arrival, slots: &SlotTable, first: &DirtyPages) {
    let mut rest = DirtyPages::new(slots);
    let loaded = arrival.load_all(first).and_then(|()| {
        arrival.marks.missing(&mut rest);
        arrival.load_all(&rest)
    });
    match loaded {
        Ok(()) => arrival.complete(),
        Err(error) => arrival.fail(error),
    }
}

/// Blocks every signal of this thread: a handler that runs here could touch memory that only this thread brings.
#[allow(unsafe_code, reason = "pthread_sigmask has no safe form in the standard library")]
fn block_signals() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set it is given.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised above, and the mask of this thread alone changes.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut()) };
}
