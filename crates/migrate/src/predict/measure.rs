//! Measuring the curve on a live tracker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_track::{RoundError, TrackError, Tracker};

use super::Sampler;

/// Windows of one length that are measured before they are made longer.
const ALIKE: u32 = 8;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(64);

/// The guest's writes could not be measured. It runs on, and no page is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// Tracking failed.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// The pages of a window could not be had.
    #[error(transparent)]
    Round(#[from] RoundError),
}

/// The lengths of windows, one after the other: short ones first, of which there are to be many, then longer and longer
/// ones, for each window protects the guest's pages anew and so slows it down a little.
pub(crate) fn lengths() -> impl Iterator<Item = Duration> {
    let mut length = SHORTEST;
    std::iter::once(SHORTEST).cycle().enumerate().map(move |(number, _)| {
        if number > 0 && number % usize::try_from(ALIKE).unwrap_or(1) == 0 {
            length = (length * 2).min(LONGEST);
        }
        length
    })
}

/// Watches the writes of a guest for `time`, or until `stop` is set: the windows say how many different pages it writes in
/// times of any length up to that.
///
/// The guest runs on, slowed down by the faults of pages that are protected again after each window. What the windows take
/// goes back into the tracker, so that an epoch that is opened afterwards has it all. Tracking that was off is switched
/// on for this and off again.
///
/// # Errors
/// [`MeasureError`].
pub fn measure(tracker: &mut Tracker, time: Duration, stop: &AtomicBool) -> Result<Sampler, MeasureError> {
    let was_armed = tracker.is_armed();
    if !was_armed {
        tracker.arm()?;
    }
    let measured = watch(tracker, time, stop);
    if !was_armed {
        tracker.disarm()?;
    }
    measured
}

fn watch(tracker: &mut Tracker, time: Duration, stop: &AtomicBool) -> Result<Sampler, MeasureError> {
    // Dropped at the end, whatever comes: it rolls back.
    let mut epoch = tracker.open()?;
    // The base, or what is left of earlier epochs, is no window's.
    drop(epoch.round()?);
    let mut sampler = Sampler::new();
    let begun = Instant::now();
    let mut last = begun;
    for length in lengths() {
        if begun.elapsed() >= time || stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(length);
        let pages = epoch.round()?;
        let now = Instant::now();
        sampler.late(length, now - last);
        sampler.push(now - last, pages);
        last = now;
    }
    Ok(sampler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_become_longer() {
        let lengths: Vec<_> = lengths().take(100).map(|length| length.as_millis()).collect();
        assert!(lengths.is_sorted());
        assert_eq!((lengths[0], lengths[7], lengths[8], lengths[99]), (1, 1, 2, 64));
    }
}
