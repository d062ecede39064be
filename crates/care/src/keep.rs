//! Which images of a machine to keep.
//!
//! A [`KeepPolicy`] is a list of rules in the manner of restic's `forget`, written `last=10,hourly=24,within=2d`:
//!
//! | rule | keeps |
//! |---|---|
//! | `last=N` | the N newest images |
//! | `minutely=N`, `hourly=N`, `daily=N`, `weekly=N`, `monthly=N`, `yearly=N` | the newest image of each of the last N minutes (hours, …) *that have an image* |
//! | `within=SPAN` | every image taken within SPAN before the newest one, as `90m`, `2d12h` or `1mo` (`m` is minutes, `mo` months) |
//!
//! An image stays if any rule keeps it. `all` as N sets no limit. As with restic, a rule of periods that has not met N
//! of them yet keeps the oldest image, too, so that a history reaches back as far as it can from its first day on.
//! Periods are those of UTC, weeks begin on Monday (ISO 8601): a policy decides the same everywhere, and no hour comes
//! twice in autumn.
//!
//! Two properties hold for every policy: the newest image is kept, so that a running machine never loses the parent of
//! its next increment; and what a policy has kept it keeps again, until there are newer images.

mod parse;
mod period;

use std::collections::HashSet;
use std::fmt;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{SpanFieldwise, Timestamp};

pub use parse::ParseKeepError;
pub use period::Period;

/// Which images of one machine to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepPolicy {
    /// At least one, none of them twice.
    rules: Vec<Rule>,
}

/// One rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Last(Count),
    Period(Period, Count),
    Within(SpanFieldwise),
}

/// How many a rule keeps: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Limit(u32),
    All,
}

/// Why an image is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is one of the newest.
    Last,
    /// It is the newest of its minute, hour, day, …
    Newest(Period),
    /// It is the oldest of all, and the rule of this period has room left.
    Oldest(Period),
    /// It was taken within the span.
    Within,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.pad("last"),
            Self::Newest(period) => f.pad(period.rule()),
            Self::Oldest(period) => f.pad(&format!("oldest {}", period.rule())),
            Self::Within => f.pad("within"),
        }
    }
}

impl KeepPolicy {
    /// The reasons for which each image of one machine is kept; an image without any is to go. `taken` has the time of
    /// each image, the newest first in the order in which they became complete: clocks may have gone back in between.
    #[must_use]
    pub fn judge(&self, taken: &[SystemTime]) -> Vec<Vec<Reason>> {
        let taken: Vec<Timestamp> = taken.iter().map(|time| timestamp(*time)).collect();
        let mut reasons = vec![Vec::new(); taken.len()];
        for rule in &self.rules {
            match rule {
                Rule::Last(count) => {
                    reasons.iter_mut().take(count.limit()).for_each(|r| r.push(Reason::Last));
                }
                Rule::Period(period, count) => keep_periods(&taken, *period, *count, &mut reasons),
                Rule::Within(span) => keep_within(&taken, *span, &mut reasons),
            }
        }
        reasons
    }
}

impl Count {
    fn limit(self) -> usize {
        match self {
            Self::Limit(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
            Self::All => usize::MAX,
        }
    }
}

fn keep_periods(taken: &[Timestamp], period: Period, count: Count, reasons: &mut [Vec<Reason>]) {
    let mut met = HashSet::new();
    for (time, reasons) in taken.iter().zip(reasons.iter_mut()) {
        if met.len() < count.limit() && met.insert(period.of(*time)) {
            reasons.push(Reason::Newest(period));
        }
    }
    if let Some(oldest) = reasons.last_mut()
        && met.len() < count.limit()
        && !oldest.contains(&Reason::Newest(period))
    {
        oldest.push(Reason::Oldest(period));
    }
}

fn keep_within(taken: &[Timestamp], span: SpanFieldwise, reasons: &mut [Vec<Reason>]) {
    let Some(newest) = taken.first() else { return };
    // A span that reaches back before the calendar's beginning contains everything.
    let start =
        newest.to_zoned(TimeZone::UTC).checked_sub(span.0).map_or(Timestamp::MIN, |start| start.timestamp());
    for (index, (time, reasons)) in taken.iter().zip(reasons).enumerate() {
        if index == 0 || *time >= start {
            reasons.push(Reason::Within);
        }
    }
}

/// A time outside of the calendar's years counts as its nearest end.
fn timestamp(time: SystemTime) -> Timestamp {
    let end = if time < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(time).unwrap_or(end)
}
