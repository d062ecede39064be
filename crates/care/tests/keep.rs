//! Retention against a naive reading of its rules.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, Zoned, tz::TimeZone};
use proptest::prelude::*;
use ringmark_care::keep::{KeepPolicy, ParseKeepError, Reason};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn policy(text: &str) -> KeepPolicy {
    text.parse().unwrap()
}

/// Indexes of what `text` keeps of images taken at `seconds`, newest first.
fn kept(text: &str, seconds: &[u64]) -> Vec<usize> {
    let taken: Vec<_> = seconds.iter().map(|s| at(*s)).collect();
    let judged = policy(text).judge(&taken);
    judged.iter().enumerate().filter(|(_, reasons)| !reasons.is_empty()).map(|(index, _)| index).collect()
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

#[test]
fn rules_one_by_one() {
    let hours = [5 * HOUR + 20, 5 * HOUR + 10, 4 * HOUR + 50, 4 * HOUR, 2 * HOUR, 2 * HOUR - 1];
    assert_eq!(kept("last=2", &hours), [0, 1]);
    assert_eq!(kept("last=all", &hours), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept("hourly=2", &hours), [0, 2]);
    assert_eq!(kept("hourly=4", &hours), [0, 2, 4, 5]);
    // One day only: the second of the two goes to the oldest.
    assert_eq!(kept("daily=2", &hours), [0, 5]);
    assert_eq!(kept("within=1h", &hours), [0, 1, 2]);
    assert_eq!(kept("last=1,within=81m", &hours), [0, 1, 2, 3]);
    assert_eq!(kept("hourly=1", &[]), [0_usize; 0]);
}

#[test]
fn weeks_begin_on_monday() {
    // 1970-01-05 was a Monday.
    let monday = 4 * DAY;
    assert_eq!(kept("weekly=2", &[monday + 6 * DAY, monday, monday - 1, monday - 2]), [0, 2]);
}

#[test]
fn a_clock_that_goes_back_does_not_cost_the_newest_image() {
    assert_eq!(kept("last=1", &[10, 90, 80]), [0]);
    assert_eq!(
        kept("within=5s", &[10, 90, 80]),
        [0, 1, 2],
        "everything is later than the newest less five seconds"
    );
    assert_eq!(kept("minutely=1", &[10, 90, 80]), [0]);
    let extremes = [SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 40), at(1 << 40)];
    assert_eq!(policy("yearly=1,within=1000y").judge(&extremes).len(), 2);
}

#[test]
fn reasons_are_said() {
    let judged = policy("last=1,hourly=9,within=10s").judge(&[at(HOUR + 9), at(HOUR), at(0), at(0)]);
    let words: Vec<Vec<String>> =
        judged.iter().map(|reasons| reasons.iter().map(Reason::to_string).collect()).collect();
    let expected: [&[&str]; 4] =
        [&["last", "hourly", "within"], &["within"], &["hourly"], &["oldest hourly"]];
    assert_eq!(words, expected);
}

#[test]
fn what_is_no_policy() {
    let wrong = |text: &str| text.parse::<KeepPolicy>().unwrap_err();
    assert_eq!(wrong(" "), ParseKeepError::Empty);
    assert_eq!(wrong("last"), ParseKeepError::Form("last".into()));
    assert_eq!(wrong("last=1,"), ParseKeepError::Form(String::new()));
    assert_eq!(wrong("fortnightly=1"), ParseKeepError::Unknown("fortnightly".into()));
    assert_eq!(wrong("last=1,last=2"), ParseKeepError::Twice("last".into()));
    for count in ["0", "-1", "x", "", "4294967296", "1.5"] {
        assert!(matches!(wrong(&format!("daily={count}")), ParseKeepError::Count { .. }), "{count}");
    }
    for span in ["", "0s", "-1h", "1h ago", "1 fortnight", "9999999y", "7"] {
        assert!(matches!(wrong(&format!("within={span}")), ParseKeepError::Span { .. }), "{span}");
    }
}

/// A machine that is checkpointed every second and pruned each time keeps a history, not only its newest images.
#[test]
fn a_rolling_history_fills_its_minutes() {
    let policy = policy("last=10,minutely=30");
    let mut images: Vec<SystemTime> = Vec::new();
    for second in 0..40 * MINUTE {
        images.insert(0, at(second));
        let judged = policy.judge(&images);
        images =
            images.into_iter().zip(judged).filter(|(_, r)| !r.is_empty()).map(|(time, _)| time).collect();
        assert!(images.len() <= 40, "{}", images.len());
    }
    let minutes: std::collections::BTreeSet<u64> =
        images.iter().map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / MINUTE).collect();
    assert_eq!(minutes, (10..40).collect());
    assert_eq!(images.len(), 39, "the newest image is both of the last and of the minutes");
}

/// The rule of periods, read naively: group by what a calendar prints.
fn periods(taken: &[SystemTime], format: &str, count: usize) -> Vec<bool> {
    let names: Vec<String> = taken
        .iter()
        .map(|time| {
            let zoned = Zoned::new(Timestamp::try_from(*time).unwrap(), TimeZone::UTC);
            zoned.strftime(format).to_string()
        })
        .collect();
    let first = |i: usize| !names[..i].contains(&names[i]);
    let before = |i: usize| (0..i).filter(|j| first(*j)).count();
    let all = before(names.len());
    (0..names.len()).map(|i| first(i) && before(i) < count || i + 1 == names.len() && all < count).collect()
}

fn rules() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let names = ["last", "minutely", "hourly", "daily", "weekly", "monthly", "yearly", "within"];
    proptest::sample::subsequence(names.to_vec(), 1..=names.len()).prop_flat_map(|names| {
        names
            .into_iter()
            .map(|name| {
                let value = match name {
                    "within" => prop_oneof!["[1-9][0-9]{0,3}m", "[1-9]h [1-9]m", "[1-9]mo [1-9]d"].boxed(),
                    _ => prop_oneof!["[1-9]", "[1-9][0-9]", Just("all".to_owned())].boxed(),
                };
                (Just(name), value)
            })
            .collect::<Vec<_>>()
    })
}

fn text(rules: &[(&str, String)]) -> String {
    rules.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Distances from minutes to months between images.
fn history() -> impl Strategy<Value = Vec<SystemTime>> {
    let step = prop_oneof![0..3 * MINUTE, 0..3 * HOUR, 0..3 * DAY, 0..60 * DAY];
    (0..1u64 << 31, proptest::collection::vec(step, 0..60)).prop_map(|(start, steps)| {
        let mut taken: Vec<_> = steps
            .into_iter()
            .scan(start, |time, step| {
                *time += step;
                Some(at(*time))
            })
            .collect();
        taken.reverse();
        taken
    })
}

proptest! {
    #[test]
    fn periods_are_the_calendars(taken in history(), count in 1usize..20) {
        for (rule, format) in [
            ("minutely", "%Y-%m-%d %H:%M"), ("hourly", "%Y-%m-%d %H"), ("daily", "%Y-%m-%d"), ("weekly", "%G-%V"),
            ("monthly", "%Y-%m"), ("yearly", "%Y"),
        ] {
            let judged = policy(&format!("{rule}={count}")).judge(&taken);
            let kept: Vec<bool> = judged.iter().map(|r| !r.is_empty()).collect();
            prop_assert_eq!(kept, periods(&taken, format, count), "{}", rule);
        }
    }

    #[test]
    fn a_policy_keeps_what_one_of_its_rules_keeps(taken in history(), rules in rules()) {
        let whole = policy(&text(&rules)).judge(&taken);
        let mut union = vec![Vec::new(); taken.len()];
        for rule in &rules {
            for (union, reasons) in union.iter_mut().zip(policy(&text(std::slice::from_ref(rule))).judge(&taken)) {
                union.extend(reasons);
            }
        }
        prop_assert_eq!(whole, union);
    }

    #[test]
    fn the_newest_stays_and_survivors_survive(taken in history(), rules in rules()) {
        let policy = policy(&text(&rules));
        let judged = policy.judge(&taken);
        prop_assert!(judged.first().is_none_or(|reasons| !reasons.is_empty()));
        let survivors: Vec<_> = taken.iter().zip(judged).filter(|(_, r)| !r.is_empty()).map(|(t, _)| *t).collect();
        let again = policy.judge(&survivors);
        prop_assert!(again.iter().all(|reasons| !reasons.is_empty()));
    }

    #[test]
    fn a_policy_reads_what_it_writes(rules in rules()) {
        let policy = policy(&text(&rules));
        prop_assert_eq!(policy.to_string().parse::<KeepPolicy>(), Ok(policy));
    }

    #[test]
    fn no_text_is_a_panic(text in ".{0,40}") {
        let _ = text.parse::<KeepPolicy>();
    }
}
