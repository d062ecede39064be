//! One line of the examination.

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// As it should be.
    Good,
    /// Usable, with a price or a risk.
    Caveat,
    /// Not usable.
    Missing,
}

/// What was found of one thing, and what to do about it.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) found: String,
    pub(super) verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), verdict: Verdict::Good, remedy: None }
    }

    pub(super) fn caveat(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, found: found.into(), verdict: Verdict::Caveat, remedy: Some(remedy.into()) }
    }

    pub(super) fn missing(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, found: found.into(), verdict: Verdict::Missing, remedy: Some(remedy.into()) }
    }

    /// Good, with a word on why nothing is to be done.
    pub(super) fn contained(what: &'static str, found: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what, found: found.into(), verdict: Verdict::Good, remedy: Some(why.into()) }
    }

    pub(super) fn into_row(self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Good => "good",
            Verdict::Caveat => "caveat",
            Verdict::Missing => "missing",
        };
        vec![self.what.to_owned(), self.found, verdict.to_owned(), self.remedy.unwrap_or_default()]
    }
}
