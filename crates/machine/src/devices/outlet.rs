//! Where console output waits for whoever reads it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::Console;

/// Bytes that wait for the reader: a boot's worth of messages.
const ROOM: usize = 1 << 20;
/// How long a vCPU waits for room; no more than a stop may take.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long the end of a machine waits for what was written last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// `console`, behind an [`Outlet`].
///
/// # Errors
/// If the system has no thread left.
pub(crate) fn attended(console: Console) -> io::Result<Console> {
    Ok(Box::new(Outlet::new(console)?))
}

/// A console behind a queue of bounded length and a thread of its own.
///
/// Who writes here is a vCPU, which has to stay stoppable: it waits for a reader that is merely slow, at most 20 ms at
/// a time, and not at all for one that took nothing in such a time. What finds no room then is lost and counted, as on a
/// serial line without flow control.
#[derive(Debug)]
struct Outlet {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<u8>,
    /// The reader took nothing while somebody waited for it.
    stalled: bool,
    lost: u64,
    /// The thread holds bytes that are in `waiting` no more.
    writing: bool,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet {
    fn new(console: Console) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = Arc::clone(&shared);
        // It ends with the outlet; where the console blocks for ever, with the process.
        thread::Builder::new().name("console-out".into()).spawn(move || reader.deliver(console))?;
        Ok(Self { shared })
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        if ROOM - state.waiting.len() < bytes.len() && !state.stalled {
            let full = |state: &mut State| ROOM - state.waiting.len() < bytes.len();
            let (guard, timeout) = self
                .shared
                .changed
                .wait_timeout_while(state, PATIENCE, full)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.stalled = timeout.timed_out();
        }
        let room = (ROOM - state.waiting.len()).min(bytes.len());
        state.waiting.extend(&bytes[..room]);
        state.lost += (bytes.len() - room) as u64;
        drop(state);
        self.shared.changed.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        let unsaid = |state: &mut State| state.writing || !state.waiting.is_empty();
        drop(self.shared.changed.wait_timeout_while(state, LAST_WORDS, unsaid));
    }
}

impl Shared {
    fn deliver(&self, mut console: Console) {
        let mut state = self.lock();
        loop {
            while state.waiting.is_empty() && !state.closed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let bytes: Vec<u8> = state.waiting.drain(..).collect();
            let lost = std::mem::take(&mut state.lost);
            if bytes.is_empty() && lost == 0 {
                return;
            }
            state.writing = true;
            state.stalled = false;
            drop(state);
            self.changed.notify_all();
            // A console that cannot be written (a closed pipe) is the operator's choice; the guest goes on.
            if let Err(error) = console.write_all(&bytes).and_then(|()| console.flush()) {
                tracing::debug!(%error, "the console took no bytes");
            }
            if lost > 0 {
                tracing::warn!(bytes = lost, "console output was lost: nobody read it");
            }
            state = self.lock();
            state.writing = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A console that takes bytes only when it is told to.
    struct Reader {
        allowed: Receiver<()>,
        seen: Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A test that has ended reads no more.
            let _ = self.allowed.recv();
            let _ = self.seen.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_console_that_is_not_read() {
        let (allow, allowed) = channel();
        let (seen, read) = channel();
        let mut outlet = Outlet::new(Box::new(Reader { allowed, seen })).unwrap();
        outlet.write_all(b"a").unwrap();
        let line = [b'x'; 1024];
        for _ in 0..3 * ROOM / line.len() {
            outlet.write_all(&line).unwrap();
        }
        assert!(outlet.shared.lock().stalled);
        assert!(outlet.shared.lock().lost > 0);
        drop(allow);
        drop(outlet);
        let all: usize = read.iter().map(|bytes| bytes.len()).sum();
        assert!(all > ROOM, "what found room is delivered when the reader comes back: {all}");
    }

    #[test]
    fn a_machine_that_ends_says_its_last_words() {
        let (allow, allowed) = channel();
        let (seen, read) = channel();
        drop(allow);
        let mut outlet = Outlet::new(Box::new(Reader { allowed, seen })).unwrap();
        outlet.write_all(b"last words").unwrap();
        drop(outlet);
        assert_eq!(read.try_iter().flatten().collect::<Vec<_>>(), b"last words");
    }
}
