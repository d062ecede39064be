//! How a case ends before its last line.

use ringmark_abi::Errno;
use std::fmt;

/// An answer that is not the one the case expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The question: which call, or which state after which steps.
    pub what: String,
    /// The kernel's documented answer.
    pub expected: String,
    /// The answer of this target.
    pub observed: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, observed {}", self.what, self.expected, self.observed)
    }
}

/// What a target cannot do, and why; the case is skipped with this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub String);

/// Why a case stopped early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The target answered differently.
    Mismatch(Mismatch),
    /// A step that is no question of the case failed, so the case could not ask its own.
    Broken(String),
    /// The target cannot do what the case needs.
    Unsupported(Unsupported),
}

impl From<Unsupported> for Stop {
    fn from(unsupported: Unsupported) -> Self {
        Self::Unsupported(unsupported)
    }
}

/// The result of a case's function.
pub(crate) type Verdict = Result<(), Stop>;

/// The answer of an operation that not every target offers: outside whether it does, inside what the kernel said.
pub type Tried<T> = Result<Result<T, Errno>, Unsupported>;

/// Stops with a mismatch unless `observed` is `expected`.
///
/// # Errors
/// The mismatch, with both values in their debug form.
pub(crate) fn equal<T: fmt::Debug + PartialEq>(what: impl Into<String>, observed: T, expected: T) -> Verdict {
    if observed == expected {
        return Ok(());
    }
    Err(Stop::Mismatch(Mismatch {
        what: what.into(),
        expected: format!("{expected:?}"),
        observed: format!("{observed:?}"),
    }))
}

/// Stops with a mismatch unless `holds`.
///
/// # Errors
/// The mismatch; `expected` is a phrase, `observed` a value.
pub(crate) fn ensure(
    what: impl Into<String>,
    holds: bool,
    expected: impl Into<String>,
    observed: impl fmt::Debug,
) -> Verdict {
    if holds {
        return Ok(());
    }
    Err(Stop::Mismatch(Mismatch {
        what: what.into(),
        expected: expected.into(),
        observed: format!("{observed:?}"),
    }))
}

/// Turns the failure of a step that is no question of the case into [`Stop::Broken`].
pub(crate) trait Must<T> {
    fn must(self, step: &str) -> Result<T, Stop>;
}

impl<T> Must<T> for Result<T, Errno> {
    fn must(self, step: &str) -> Result<T, Stop> {
        self.map_err(|errno| Stop::Broken(format!("{step} failed with {errno:?}")))
    }
}
