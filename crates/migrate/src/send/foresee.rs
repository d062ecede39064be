//! The first round, which measures the guest while it sends, and what is predicted of the rest.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::DirtyPages;
use ringmark_track::OpenEpoch;

use super::predicting::Predicting;
use super::{DepartError, Departing, Departure, Prefer};
use crate::codec::Encoded;
use crate::predict::{Conditions, Estimate, Goal, Sampler, lengths};
use crate::wire::Encoding;

/// Windows that are measured during the first round, at most: half a second of them.
const WINDOWS: usize = 64;
/// How far off the cost of a page may be when it is sent again.
const SAME: f64 = 0.05;
/// The same where it may be sent as a difference, or compress better or worse.
const ENCODED: f64 = 0.4;

/// What the first round told.
pub(super) struct First {
    pub(super) sent: Encoded,
    /// When it ended, counted from its beginning.
    pub(super) elapsed: Duration,
    /// Pages that were written meanwhile, as far as they were harvested.
    pub(super) written: DirtyPages,
    sampler: Sampler,
}

impl<M: Departing> Departure<'_, M> {
    /// Sends the base, and measures meanwhile how many different pages the guest writes in which time.
    pub(super) fn first_round(
        &mut self,
        epoch: &mut OpenEpoch<'_>,
        pages: &DirtyPages,
        holes: &DirtyPages,
    ) -> Result<First, DepartError> {
        let mut streams = std::mem::take(&mut self.streams);
        let round = self.round(pages, Some(holes), streams.len());
        let begun = Instant::now();
        let mut sampler = Sampler::new();
        let mut written = DirtyPages::new(self.machine.slots());
        let (sent, measured) = thread::scope(|scope| {
            let (done, ended) = channel();
            let threads: Vec<_> = streams
                .iter_mut()
                .map(|stream| {
                    let (done, round) = (done.clone(), &round);
                    scope.spawn(move || {
                        let result = stream.round(round);
                        // Whoever samples may have stopped listening.
                        let _ = done.send(());
                        result
                    })
                })
                .collect();
            let mut last = begun;
            let mut measured = Ok(());
            for length in lengths().take(WINDOWS) {
                // The first stream that ends ends the measurement: from then on the round is no longer what it was.
                if ended.recv_timeout(length) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                match epoch.round() {
                    Ok(pages) => {
                        written.union_with(&pages);
                        let now = Instant::now();
                        sampler.late(length, now - last);
                        sampler.push(now - last, pages);
                        last = now;
                    }
                    Err(error) => {
                        measured = Err(error);
                        break;
                    }
                }
            }
            let mut sent = Ok(Encoded::default());
            for thread in threads {
                match thread.join() {
                    Ok(Ok(share)) => {
                        sent = sent.map(|mut sent| {
                            sent.add(share);
                            sent
                        })
                    }
                    Ok(Err(error)) => sent = sent.and(Err(error)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            // What is left of the round is one more window, and the longest.
            let rest = measured.and_then(|()| epoch.round());
            let measured = rest.map(|pages| {
                written.union_with(&pages);
                sampler.push(last.elapsed(), pages);
            });
            (sent, measured)
        });
        self.streams = streams;
        if sent.is_err() {
            self.partly_confirmed(epoch, Some(&written));
        }
        let (sent, ()) = (sent?, measured?);
        Ok(First { sent, elapsed: begun.elapsed(), written, sampler })
    }

    /// Begins to predict the rest from what the first round told; on a thread of its own, for the guest does not wait.
    pub(super) fn foresee(&mut self, first: First) {
        let seconds = |duration: Duration| duration.as_secs_f64();
        let page = self.page_size.bytes() as f64;
        let (mut busy, mut paged) = (Duration::ZERO, 0);
        for stream in &self.streams {
            let (time, bytes) = stream.paged();
            busy = busy.max(time);
            paged += bytes;
        }
        let normal = first.sent.normal as f64;
        let encoded = self
            .options
            .encodings
            .iter()
            .any(|e| matches!(e, Encoding::Lz4 | Encoding::Zstd | Encoding::Delta));
        // Without a page that was sent as such nothing is known of what one costs.
        let (page_bytes, page_spread) = match normal {
            0.0 => (page, 1.0),
            _ => (paged as f64 / normal, if encoded { ENCODED } else { SAME }),
        };
        let limit = self.options.bandwidth.map_or(f64::INFINITY, |limit| limit as f64);
        let measured = if paged > 0 { paged as f64 / seconds(busy).max(1e-6) } else { 1e9 };
        let conditions = Conditions {
            memory_pages: self.machine.slots().total_pages(),
            first_bytes: Estimate::exact(first.sent.bytes as f64),
            first_round: Some(first.elapsed),
            page_bytes: Estimate::around(page_bytes, page_spread),
            bandwidth: if measured > limit * 0.9 {
                Estimate::around(limit, SAME)
            } else {
                Estimate::around(measured, 0.25)
            },
            waits: first.sampler.waits(),
            setup: Estimate::exact((self.begun.elapsed() - first.elapsed).as_secs_f64()),
            goal: Goal { downtime: self.options.max_downtime, total: self.options.max_total },
            throttle: self.options.prefer == Prefer::Downtime && self.can_slow(),
            ..Conditions::assumed(self.page_size)
        };
        self.predicting = Some(Predicting::begin(first.sampler.windows().into(), conditions));
    }

    /// Takes the prediction once it is there, or where it is wanted now; whether it came by this.
    pub(super) fn take_prediction(&mut self, wanted: bool) -> bool {
        let Some(predicting) = self.predicting.take_if(|predicting| wanted || predicting.is_finished())
        else {
            return false;
        };
        self.report.prediction = predicting.end();
        self.report.prediction.is_some()
    }

    /// Whether it is all but certain that the goal is missed, and by what if so.
    pub(super) fn foreseen_miss(&self) -> Option<Duration> {
        let prediction = self.report.prediction.as_ref()?;
        let least = prediction.floor_downtime.most[0] / 1e3;
        let missed =
            Duration::try_from_secs_f64(least).ok().filter(|least| *least > self.options.max_downtime);
        let late = self
            .options
            .max_total
            .is_some_and(|most| prediction.total_time.most[0] > most.as_secs_f64() * 1e3)
            && self.options.prefer == Prefer::Guest;
        let expected =
            Duration::try_from_secs_f64(prediction.downtime.expected / 1e3).unwrap_or(Duration::MAX);
        missed.or(late.then_some(expected))
    }

    /// What it would take to meet the goal, in words.
    pub(super) fn advice(&self) -> String {
        let remedies = self.report.prediction.as_ref().and_then(|prediction| prediction.remedies);
        let ways = remedies.map(|remedies| remedies.ways()).unwrap_or_default();
        if ways.is_empty() { String::new() } else { format!("It would take {}. ", ways.join(", or ")) }
    }
}
