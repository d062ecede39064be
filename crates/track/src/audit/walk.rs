//! Reading and hashing pages, on every processor at once.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use ringmark_dirty::PageSize;
use twox_hash::XxHash3_64;

use super::Changed;
use crate::MemoryError;

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Unreported pages that were compared.
    pub(super) compared: u64,
    /// Those of them that had changed, in order.
    pub(super) changed: Vec<Changed>,
}

/// The hash of a page.
pub(super) fn hash(page: &[u8]) -> u64 {
    XxHash3_64::oneshot(page)
}

/// The length of a page in memory.
pub(super) fn page_length(page_size: PageSize) -> usize {
    usize::try_from(page_size.bytes()).unwrap_or(usize::MAX)
}

/// Has all processors take a part of the work, a piece at a time: `work` gets a piece, the buffer of its thread, and where
/// to put what it sees.
///
/// The first error ends the work of its thread, and is returned when all have ended.
pub(super) fn in_parallel<T: Send>(
    pieces: Vec<T>,
    buffer: usize,
    work: impl Fn(T, &mut [u8], &mut Seen) -> Result<(), MemoryError> + Sync,
) -> Result<Seen, MemoryError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(pieces.len());
    let queue = Mutex::new(pieces.into_iter());
    let labour = || {
        let mut buffer = vec![0; buffer];
        let mut seen = Seen::default();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(piece) = next else { return Ok(seen) };
            work(piece, &mut buffer, &mut seen)?;
        }
    };
    let mut seen = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(labour)).collect();
        let mut all = labour();
        for helper in helpers {
            let found: Result<Seen, MemoryError> = match helper.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            all = all.and_then(|mut all| {
                let found = found?;
                all.compared += found.compared;
                all.changed.extend(found.changed);
                Ok(all)
            });
        }
        all
    })?;
    seen.changed.sort_unstable();
    Ok(seen)
}
