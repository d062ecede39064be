//! The threads that bring memory.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use ringmark_dirty::{DirtyPages, SlotTable};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;

use super::{Arrival, LazyError, LoadCause, LoadError};

/// Threads that answer faults: as many pages are asked of a slow store at once.
const SERVERS: usize = 4;

/// The threads that bring a machine's memory: servers for whoever waits, and a loader for the rest.
///
/// Dropped, it lets everyone go who waits and ends the threads; so the vCPUs have ended before.
#[derive(Debug)]
pub(crate) struct Loading {
    arrival: Arc<Arrival>,
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Loading {
    /// Starts to bring memory: `first` before everything else.
    ///
    /// # Errors
    /// If there is no thread left.
    pub(crate) fn start(
        arrival: Arc<Arrival>,
        slots: &SlotTable,
        first: DirtyPages,
    ) -> Result<Self, LazyError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(|error| LazyError::Thread(error.into()))?);
        let mut loading = Self { arrival, stop, threads: Vec::new() };
        for number in 0..SERVERS {
            let (arrival, stop) = (Arc::clone(&loading.arrival), Arc::clone(&loading.stop));
            loading.spawn(format!("fault{number}"), move || serve(&arrival, &stop))?;
        }
        let (arrival, slots) = (Arc::clone(&loading.arrival), slots.clone());
        loading.spawn("load".into(), move || load(&arrival, &slots, &first))?;
        Ok(loading)
    }

    pub(crate) fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> Result<(), LazyError> {
        let arrival = Arc::clone(&self.arrival);
        let work = move || {
            block_signals();
            let guard = FailOnPanic(&arrival);
            work();
            drop(guard);
        };
        self.threads.push(thread::Builder::new().name(name).spawn(work).map_err(LazyError::Thread)?);
        Ok(())
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.arrival.abandon();
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
struct FailOnPanic<'a>(&'a Arrival);

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
