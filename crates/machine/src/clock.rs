//! The machine's clock device: a thread of the monitor that writes the time into guest memory, as a paravirtual clock or
//! any other device thread does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmark_guest::{Config, publish_device};

use crate::ram::Ram;
use crate::words::RamWords;

/// Between two writes of the time.
const PERIOD: Duration = Duration::from_millis(10);

/// What the clock is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Write.
    #[default]
    Ticks,
    /// Leave memory alone, which may be another machine's by now.
    Holds,
    /// End.
    Ended,
}

/// A running clock. It writes only while it can take [`quiesce`](Self::quiesce)'s lock, through memory that marks itself.
#[derive(Debug)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whoever holds the lock keeps the clock from writing.
    pulse: Mutex<Pulse>,
    wake: Condvar,
}

impl Clock {
    /// Starts the clock; it first writes after one period.
    pub(crate) fn start(ram: Ram, config: Config) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let ticking = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("clock".into()).spawn(move || tick(&ticking, &ram, &config))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Keeps the clock from writing for as long as the guard lives; a write under way is finished first.
    pub(crate) fn quiesce(&self) -> MutexGuard<'_, Pulse> {
        self.shared.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tick(shared: &Shared, ram: &Ram, config: &Config) {
    let begun = Instant::now();
    let mut pulse = shared.pulse.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        pulse = shared.wake.wait_timeout(pulse, PERIOD).unwrap_or_else(PoisonError::into_inner).0;
        match *pulse {
            Pulse::Ticks => {}
            Pulse::Holds => continue,
            Pulse::Ended => return,
        }
        let now = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Err(error) = publish_device(&mut RamWords(ram), config, now) {
            tracing::warn!(%error, "the clock device lost its page and stops");
            return;
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        *self.quiesce() = Pulse::Ended;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A clock that panicked has said so.
            let _ = thread.join();
        }
    }
}
