//! A prediction for people.

use indicatif::HumanCount;
use ringmark_migrate::predict::{Bounds, Prediction};

use crate::output;

/// What is said of a quantity.
struct Row {
    what: &'static str,
    bounds: Bounds,
    shown: fn(f64) -> String,
    /// What became of it.
    outcome: Option<f64>,
}

/// What became of a migration that was predicted.
pub(crate) struct Outcome {
    pub(crate) rounds: f64,
    /// Milliseconds.
    pub(crate) total_time: f64,
    /// Milliseconds.
    pub(crate) downtime: f64,
}

/// Prints what is expected with its bounds, and beside it the outcome where there is one.
pub(crate) fn print(prediction: &Prediction, outcome: Option<&Outcome>) {
    let row = |what, bounds: &Bounds, shown, outcome| Row { what, bounds: *bounds, shown, outcome };
    let rows = [
        row("pages written over and over", &prediction.hot_pages, count, None),
        row("writes a second", &prediction.dirty_pages_rate, count, None),
        row("bytes written for each one sent", &prediction.rho, share, None),
        row("floor: pages left by any number of rounds", &prediction.floor_pages, count, None),
        row("floor: downtime, ms", &prediction.floor_downtime, milliseconds, None),
        row("rounds", &prediction.rounds, count, outcome.map(|outcome| outcome.rounds)),
        row(
            "total time, ms",
            &prediction.total_time,
            milliseconds,
            outcome.map(|outcome| outcome.total_time),
        ),
        row("downtime, ms", &prediction.downtime, milliseconds, outcome.map(|outcome| outcome.downtime)),
    ];
    let mut header = vec!["prediction", "expected", "in 1 of 2 cases", "in 9 of 10 cases"];
    header.extend(outcome.map(|_| "outcome"));
    let right: Vec<usize> = (1..header.len()).collect();
    let cells = rows.into_iter().map(|row| {
        let Row { what, bounds, shown, outcome: became } = row;
        let between = |[low, high]: [f64; 2]| format!("{} to {}", shown(low), shown(high));
        let mut cells =
            vec![what.to_owned(), shown(bounds.expected), between(bounds.half), between(bounds.most)];
        cells.extend(outcome.map(|_| became.map(shown).unwrap_or_default()));
        cells
    });
    output::line(output::table(&header, &right, cells));
}

/// What it would take to meet the goal, as sentences; empty where nothing is known to help, or nothing is needed.
pub(crate) fn advice(prediction: &Prediction) -> String {
    let Some(remedies) = prediction.remedies else { return String::new() };
    let ways = remedies.ways();
    if ways.is_empty() {
        return "Neither a faster link, nor smaller pages, nor holding its writes back is known to be enough.".into();
    }
    format!("To meet it in 9 of 10 it would take {}.", ways.join(", or "))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people; a cast saturates")]
fn count(number: f64) -> String {
    HumanCount(number.round() as u64).to_string()
}

fn share(number: f64) -> String {
    format!("{number:.2}")
}

fn milliseconds(ms: f64) -> String {
    if ms < 100.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}
