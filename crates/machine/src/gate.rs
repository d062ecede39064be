//! Stopping and resuming the threads that run vCPUs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A kick whose signal was not delivered (a full queue of signals) is repeated after this long.
const KICK_AGAIN: Duration = Duration::from_millis(100);

/// Where vCPU threads wait while the machine is stopped.
///
/// A vCPU thread calls [`pass`](Self::pass) before every entry of the guest; while a stop is in force it waits there
/// and counts as parked. [`close`](Self::close) raises `closed`, kicks every thread, and returns once all that live are
/// parked. The flag is raised *before* the kick, and a kick stays with its vCPU until a run of the guest has answered it,
/// so one that comes between a thread's last look at the flag and its entry of the guest makes that entry return at
/// once, after which the thread looks again: no stop is lost.
///
/// Lock order: the gate's lock is a leaf; nothing is called while it is held. A thread that waits for the collector to
/// drain its full ring is not parked, and the collector never waits for the gate, so a stop merely outlasts the drain.
#[derive(Debug)]
pub(crate) struct Gate {
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Threads that will call `pass` again.
    alive: usize,
    /// Of these, the ones that wait in it.
    parked: usize,
    /// No thread passes any more.
    ended: bool,
}

/// Some thread did not come back from the guest in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missing} of {alive} vCPUs did not leave the guest within {:?}; the guest runs on", waited)]
pub struct StopTimeout {
    /// vCPUs that were still in the guest.
    pub missing: usize,
    /// vCPUs in all.
    pub alive: usize,
    /// How long was waited for them.
    pub waited: Duration,
}

/// Whether a thread may enter the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It may.
    Enter,
    /// The machine has ended: the thread returns.
    End,
}

impl Gate {
    /// A gate for `threads` threads; closed, so that none enters the guest before the machine is complete.
    #[must_use]
    pub(crate) fn closed(threads: usize) -> Self {
        let state = State { alive: threads, parked: 0, ended: false };
        Self { closed: AtomicBool::new(true), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the gate is closed.
    pub(crate) fn pass(&self) -> Pass {
        if !self.closed.load(Ordering::SeqCst) {
            return Pass::Enter;
        }
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        while self.closed.load(Ordering::SeqCst) && !state.ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked -= 1;
        if state.ended { Pass::End } else { Pass::Enter }
    }

    /// Stops all threads: `kick` makes every vCPU leave the guest. Returns once all that live wait in [`pass`](Self::pass).
    ///
    /// # Errors
    /// After `limit` the gate is opened again, so that the threads that did stop run on.
    pub(crate) fn close(&self, limit: Duration, kick: impl Fn()) -> Result<(), StopTimeout> {
        self.closed.store(true, Ordering::SeqCst);
        kick();
        let begun = Instant::now();
        let mut state = self.lock();
        while state.parked < state.alive {
            let Some(left) = limit.checked_sub(begun.elapsed()) else {
                let error =
                    StopTimeout { missing: state.alive - state.parked, alive: state.alive, waited: limit };
                drop(state);
                self.open();
                return Err(error);
            };
            let wait = left.min(KICK_AGAIN);
            let (guard, timeout) =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if timeout.timed_out() {
                drop(state);
                kick();
                state = self.lock();
            }
        }
        Ok(())
    }

    /// Lets all threads enter the guest, unless the machine has ended.
    pub(crate) fn open(&self) {
        let state = self.lock();
        self.closed.store(state.ended, Ordering::SeqCst);
        drop(state);
        self.changed.notify_all();
    }

    /// Makes every thread return from [`pass`](Self::pass) with [`Pass::End`], now and for ever.
    pub(crate) fn end(&self, kick: impl Fn()) {
        let mut state = self.lock();
        state.ended = true;
        self.closed.store(true, Ordering::SeqCst);
        drop(state);
        self.changed.notify_all();
        kick();
    }

    /// A thread takes its leave: it will not call [`pass`](Self::pass) again.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.alive = state.alive.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    #[test]
    fn nothing_moves_while_the_gate_is_closed() {
        const THREADS: usize = 3;
        let gate = Gate::closed(THREADS);
        let steps = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while gate.pass() == Pass::Enter {
                        steps.fetch_add(1, Ordering::SeqCst);
                    }
                    gate.leave();
                });
            }
            gate.close(Duration::from_secs(10), || ()).unwrap();
            assert_eq!(steps.load(Ordering::SeqCst), 0, "a new gate is closed");
            for _ in 0..200 {
                let before = steps.load(Ordering::SeqCst);
                gate.open();
                while steps.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }
                gate.close(Duration::from_secs(10), || ()).unwrap();
                let stopped = steps.load(Ordering::SeqCst);
                thread::yield_now();
                assert_eq!(steps.load(Ordering::SeqCst), stopped);
            }
            gate.end(|| ());
        });
    }

    #[test]
    fn an_ended_machine_is_not_opened_again() {
        let gate = Gate::closed(1);
        gate.end(|| ());
        gate.open();
        assert_eq!(gate.pass(), Pass::End);
    }

    #[test]
    fn a_kick_is_repeated_until_it_is_answered() {
        let gate = Gate::closed(1);
        let kicks = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                // As a vCPU whose first kicks were lost.
                while kicks.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
                assert_eq!(gate.pass(), Pass::End);
            });
            gate.close(Duration::from_secs(30), || {
                kicks.fetch_add(1, Ordering::SeqCst);
            })
            .unwrap();
            gate.end(|| ());
        });
    }

    #[test]
    fn a_thread_that_stays_away_is_named_and_the_others_run_on() {
        let gate = Gate::closed(2);
        let error = gate.close(Duration::from_millis(1), || ()).unwrap_err();
        assert_eq!((error.missing, error.alive), (2, 2));
        assert_eq!(gate.pass(), Pass::Enter);
    }
}
