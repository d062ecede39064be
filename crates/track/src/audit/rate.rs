//! How much of memory an audit watches.

use std::fmt;
use std::str::FromStr;

/// The share of pages that an audit watches from one cut to the next.
///
/// Where it is `p`, each page is watched with probability `p`, apart from all others and chosen anew at each cut. Of `k`
/// pages that were lost between two cuts at least one is found with probability 1 − (1 − p)ᵏ. A page that stays lost, as
/// one that is writable and in no log does, is looked for again at each cut at which it has changed.
///
/// Written and read as a percentage: `1%`, `0.05%`, `100%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditRate {
    /// Pages in a million, 1 to a million.
    per_million: u32,
}

const MILLION: u32 = 1_000_000;
/// Pages in a million that are a percent.
const PERCENT: u32 = MILLION / 100;

/// What was given is no share of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no share of memory: give a percentage from 0.0001% to 100%, such as 1%")]
pub struct AuditRateError {
    given: String,
}

impl AuditRate {
    /// Every page.
    pub const EVERY_PAGE: Self = Self { per_million: MILLION };

    /// Whether every page is watched.
    #[must_use]
    pub const fn is_every_page(self) -> bool {
        self.per_million == MILLION
    }

    /// The probability with which a page is watched: more than 0, at most 1.
    #[must_use]
    pub fn probability(self) -> f64 {
        f64::from(self.per_million) / f64::from(MILLION)
    }

    /// With what probability at least one of `lost` lost pages is found at one cut.
    #[must_use]
    pub fn catches(self, lost: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count this large makes the result 1 anyway")]
        let lost = lost as f64;
        1.0 - (1.0 - self.probability()).powf(lost)
    }

    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) =
            text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        // Four digits are a ten-thousandth of a percent, which is a page in a million.
        if !digits(whole) || !digits(fraction) || fraction.len() > 4 {
            return None;
        }
        let whole = whole.parse::<u32>().ok()?.checked_mul(PERCENT)?;
        let per_million = whole.checked_add(format!("{fraction:0<4}").parse().ok()?)?;
        (1..=MILLION).contains(&per_million).then_some(Self { per_million })
    }
}

impl FromStr for AuditRate {
    type Err = AuditRateError;

    fn from_str(text: &str) -> Result<Self, AuditRateError> {
        Self::parse(text).ok_or_else(|| AuditRateError { given: text.to_owned() })
    }
}

impl fmt::Display for AuditRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.per_million / PERCENT, self.per_million % PERCENT);
        if fraction == 0 {
            return write!(f, "{whole}%");
        }
        let digits = format!("{fraction:04}");
        write!(f, "{whole}.{}%", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_percentages_are_rates() {
        for text in [
            "",
            "%",
            "1",
            "0%",
            "0.00001%",
            "100.0001%",
            "-1%",
            "1.%",
            ".5%",
            "1e2%",
            "+1%",
            "99999999999%",
            "1 %",
        ] {
            let error = text.parse::<AuditRate>().unwrap_err();
            assert!(error.to_string().contains("such as 1%"), "{error}");
        }
        assert_eq!("100%".parse(), Ok(AuditRate::EVERY_PAGE));
        assert_eq!("0.0001%".parse(), Ok(AuditRate { per_million: 1 }));
        assert_eq!("1.50%".parse::<AuditRate>().map(|rate| rate.to_string()), Ok("1.5%".to_owned()));
    }

    #[test]
    fn more_lost_pages_are_caught_more_surely() {
        let rate: AuditRate = "1%".parse().unwrap();
        let caught = [1, 10, 100, 500].map(|lost| (rate.catches(lost) * 1000.0).round() / 10.0);
        assert_eq!(caught, [1.0, 9.6, 63.4, 99.3]);
        assert!(AuditRate::EVERY_PAGE.catches(1) >= 1.0);
    }

    proptest! {
        #[test]
        fn a_rate_is_read_as_it_is_written(per_million in 1..=MILLION) {
            let rate = AuditRate { per_million };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }
}
