//! Signals at every thread of the process.

#![allow(unsafe_code, reason = "signals to threads by their number")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::signals::{SIGNAL, listen};

/// Signals every thread of the process again and again until it is dropped.
///
/// The signal (`SIGURG`) does nothing but arrive: system calls are interrupted, a thread that runs a vCPU leaves the
/// guest, and a reset on a thread that takes signals is cut short.
#[derive(Debug)]
pub struct Storm {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    sent: AtomicU64,
}

impl Storm {
    /// Begins, with a round over all threads `every` so often.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(every: Duration) -> io::Result<Self> {
        listen();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("ringmark-storm".into()).spawn(move || {
            while !theirs.over.load(Ordering::Relaxed) {
                let sent = signal_all();
                theirs.sent.fetch_add(sent, Ordering::Relaxed);
                thread::sleep(every);
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Signals sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and if it did, the storm would be over too.
            let _ = thread.join();
        }
    }
}

fn signal_all() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let mut sent = 0;
    for task in tasks.flatten() {
        let Some(id) = task.file_name().to_str().and_then(|name| name.parse::<libc::pid_t>().ok()) else {
            continue;
        };
        // SAFETY: the signal has a handler that touches nothing; a thread that has ended meanwhile is no target.
        let answer = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, SIGNAL) };
        sent += u64::from(answer == 0);
    }
    sent
}
