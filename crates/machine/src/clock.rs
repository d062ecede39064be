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

/// A running clock. It writes only while it can take [`quiesce`](Self::quiesce)'s lock, through memory that marks itself.
#[derive(Debug)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether the clock is to end; whoever holds the lock keeps the clock from writing.
    ended: Mutex<bool>,
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
    pub(crate) fn quiesce(&self) -> MutexGuard<'_, bool> {
        self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tick(shared: &Shared, ram: &Ram, config: &Config) {
    let begun = Instant::now();
    let mut ended = shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        ended = shared.wake.wait_timeout(ended, PERIOD).unwrap_or_else(PoisonError::into_inner).0;
        if *ended {
            return;
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
        *self.quiesce() = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A clock that panicked has said so.
            let _ = thread.join();
        }
    }
}
