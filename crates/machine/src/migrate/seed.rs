//! An old image of a machine that arrives: what it has of its memory need not come.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_image::Image;
use ringmark_track::MemoryError;

use crate::ram::Ram;

/// For how long an image is read: the source waits for an answer meanwhile, and takes a long silence for a lost link. What was
/// read by then is of use.
const LONGEST: Duration = Duration::from_secs(15);

/// Why no more of an image was read.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("its reading took longer than {LONGEST:?}, and the source does not wait for ever")]
    Late,
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Fills `ram`, which is fresh, with what `image` holds, and says which pages have it.
///
/// Nothing is believed of them: the source compares a hash of each as it is in memory, and the digest covers all of them. So an image
/// of another machine costs time, one that is damaged is used as far as its pages are what they were, and one of another
/// layout is of no use.
pub(super) fn fill(ram: &Ram, image: &Image) -> DirtyPages {
    let filled = Mutex::new(DirtyPages::new(ram.slots()));
    let (ours, theirs) = (ram.layout(), image.layout());
    if ours.page_size() != theirs.page_size() || !ours.slots().iter().eq(theirs.slots().iter()) {
        tracing::warn!(
            "image {} is of no use as a seed: it is of {} bytes of memory in pages of {}, and the machine that arrives has {} in \
             pages of {}; all of it comes from the source",
            image.id(),
            theirs.bytes(),
            theirs.page_size(),
            ours.bytes(),
            ours.page_size(),
        );
        return filled.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    let begun = Instant::now();
    let read = image.restore(|slot, first, bytes| {
        if begun.elapsed() >= LONGEST {
            return Err(Stop::Late);
        }
        ram.write_pages(slot, first, bytes)?;
        let pages = ours.page_size().pages_in(bytes.len() as u64);
        // Pages that there are not cannot be written.
        if let Some(set) = filled.lock().unwrap_or_else(PoisonError::into_inner).slot_mut(slot) {
            set.insert_range(first..first + pages);
        }
        Ok(())
    });
    let filled = filled.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = read {
        tracing::warn!(
            "of image {} {} pages are a seed, the rest comes from the source: {error}",
            image.id(),
            filled.len()
        );
    }
    filled
}
