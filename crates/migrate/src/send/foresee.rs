//! What is predicted of a migration once its first round has been sent.

use std::time::Duration;

use super::beside::Harvested;
use super::predicting::{Predicting, Wanted};
use super::{Departing, Departure, Prefer};
use crate::predict::{Conditions, Estimate, Goal, Sampler};
use crate::wire::Encoding;

/// How far off the cost of a page may be when it is sent again.
const SAME: f64 = 0.05;
/// The same where it may be sent as a difference, or compress better or worse.
const ENCODED: f64 = 0.4;

impl<M: Departing> Departure<'_, M> {
    /// What the first round told of the rest.
    pub(super) fn foresee(&mut self, first: &Harvested, sampler: &Sampler) {
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
            first_left: Some(first.owed.len()),
            page_bytes: Estimate::around(page_bytes, page_spread),
            bandwidth: if measured > limit * 0.9 {
                Estimate::around(limit, SAME)
            } else {
                Estimate::around(measured, 0.25)
            },
            waits: sampler.waits(),
            setup: Estimate::exact((self.begun.elapsed() - first.elapsed).as_secs_f64()),
            goal: Goal { downtime: self.options.max_downtime, total: self.options.max_total },
            throttle: self.options.prefer == Prefer::Downtime && self.can_slow(),
            ..Conditions::assumed(self.page_size)
        };
        let predicting = Predicting::begin(sampler.windows().into(), conditions);
        self.report.prediction = predicting.doubt();
        self.predicting = Some(predicting);
    }

    /// Takes the prediction where it is wanted now.
    pub(super) fn take_prediction(&mut self, wanted: Wanted) {
        if let Some(predicting) = self.predicting.take()
            && (self.report.prediction.is_none() || wanted == Wanted::WithRemedies)
        {
            self.report.prediction = predicting.end(wanted);
        }
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
