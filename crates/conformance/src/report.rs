//! What a run says at its end.

use serde::{Deserialize, Serialize};

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every answer was the documented one.
    Passed,
    /// Some answer was not, and it is no known deviation of this kernel.
    Failed,
    /// The case does not apply to this target.
    Skipped,
    /// The answer is not the documented one, but the one this kernel is known to give.
    Deviation,
}

/// One case's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseReport {
    /// `T01` to `T95`.
    pub id: String,
    /// The case's short name.
    pub name: String,
    /// How it ended.
    pub result: Outcome,
    /// The answer that failed, the evidence of a deviation, the reason of a skip, or what was tolerated; else empty.
    pub detail: String,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The target's name.
    pub target: String,
    /// Its kernel.
    pub kernel: String,
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that do not apply.
    pub skipped: usize,
    /// Cases that ended in a known deviation.
    pub deviations: usize,
    /// Every case that was selected, in order.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// A report of `cases` on a target.
    #[must_use]
    pub fn new(target: impl Into<String>, kernel: impl Into<String>, cases: Vec<CaseReport>) -> Self {
        let of = |outcome| cases.iter().filter(|case| case.result == outcome).count();
        Self {
            target: target.into(),
            kernel: kernel.into(),
            passed: of(Outcome::Passed),
            failed: of(Outcome::Failed),
            skipped: of(Outcome::Skipped),
            deviations: of(Outcome::Deviation),
            cases,
        }
    }
}
