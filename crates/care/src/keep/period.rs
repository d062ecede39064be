//! Minutes, hours, days, weeks, months and years.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A period of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// Every period, shortest first.
    pub const EVERY: [Self; 6] = [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The rule that keeps one image of each: `minutely`, `hourly`, …
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Minute => "minutely",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// The number of the period that contains `time`: equal for two times exactly if both are in the same one.
    pub(super) fn of(self, time: Timestamp) -> i64 {
        let days = time.as_second().div_euclid(86_400);
        let date = || TimeZone::UTC.to_datetime(time);
        match self {
            Self::Minute => time.as_second().div_euclid(60),
            Self::Hour => time.as_second().div_euclid(3600),
            Self::Day => days,
            // Day 0, the first of 1970, was a Thursday.
            Self::Week => (days + 3).div_euclid(7),
            Self::Month => i64::from(date().year()) * 12 + i64::from(date().month()),
            Self::Year => i64::from(date().year()),
        }
    }
}
