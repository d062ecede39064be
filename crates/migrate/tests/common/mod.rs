//! A guest that is a thread, on both sides of a migration, and the link between them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by the test programs, each of which uses a part"
)]

pub mod engine;
pub mod guest;
pub mod proxy;
pub mod run;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many cases are under way at a time.
const AT_ONCE: usize = 8;

/// `test` with each of `cases`, several at once: for those that mostly wait for a peer that is gone.
pub fn at_once<T: Sync, R: Send>(cases: &[T], test: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let taken = || cases.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(taken).map(&test).collect::<Vec<R>>()
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let done = |worker: thread::ScopedJoinHandle<'_, Vec<R>>| {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        workers.into_iter().flat_map(done).collect()
    })
}
