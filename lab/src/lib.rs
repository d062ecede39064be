//! The lines that a lab kernel prints on its serial console, for the program that booted it.
//!
//! Each is [`PREFIX`] and one [`Line`] as JSON. The first is [`Line::Kernel`], then comes one [`Line::Case`] per case of
//! the conformance suite; then, for each test program, one [`Line::Test`] per test and its [`Line::Program`]; all of
//! this as often as it is to be repeated; and [`Line::End`] is the last. A console that goes silent before it is that of
//! a failed run, whatever the lines so far say.

mod tail;

use std::fmt;
use std::str::FromStr;

use ringmark_conformance::CaseReport;
use serde::{Deserialize, Serialize};

pub use tail::Tail;

/// The environment variable that names what alone is to be asked and run: a part of a case's or test's name.
pub const ONLY: &str = "RINGMARK_LAB_ONLY";
/// The environment variable that says how often all of it is to be done.
pub const REPEAT: &str = "RINGMARK_LAB_REPEAT";

/// What every line of the protocol begins with; all else on the console is the kernel's.
pub const PREFIX: &str = "ringmark-lab: ";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// The kernel that is asked.
    Kernel {
        /// Name and release, and the kind of MMU.
        kernel: String,
        /// Cases that will follow.
        cases: usize,
        /// Test programs that will follow them.
        programs: usize,
    },
    /// A case has ended.
    Case {
        /// How.
        report: CaseReport,
        /// After how many milliseconds.
        millis: u64,
    },
    /// A test of a test program has ended.
    Test {
        /// The test's name.
        name: String,
        /// Whether it passed; one that did not run did not.
        passed: bool,
    },
    /// A test program has ended.
    Program {
        /// Its name.
        name: String,
        /// Its exit status says that all is well.
        passed: bool,
        /// What its tests said that they skipped. Nothing may be skipped here.
        skipped: Vec<String>,
        /// What the tests that failed have said, or the program itself if it failed without naming one.
        said: Vec<Said>,
    },
    /// The kernel cannot be asked, and why. Nothing follows.
    Broken {
        /// One sentence.
        why: String,
    },
    /// All cases and programs have ended.
    End {
        /// How many cases there were.
        cases: usize,
        /// How many programs.
        programs: usize,
    },
}

/// What something that failed has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The name of the test, as its [`Line::Test`] has it, or that of the program.
    pub of: String,
    /// The end of what it printed.
    pub tail: Tail,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{json}")
    }
}

/// A line of the protocol that came out damaged.
#[derive(Debug)]
pub struct Damaged(serde_json::Error);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a damaged line on the console: {}", self.0)
    }
}

impl std::error::Error for Damaged {}

impl FromStr for Line {
    type Err = Damaged;

    /// Reads what follows [`PREFIX`].
    fn from_str(text: &str) -> Result<Self, Damaged> {
        serde_json::from_str(text).map_err(Damaged)
    }
}

/// The protocol's line in a line of the console, if it holds one. Something may stand before it that did not end in a
/// line break.
///
/// # Errors
/// [`Damaged`] if the rest of the line is none.
pub fn find(console: &str) -> Result<Option<Line>, Damaged> {
    match console.split_once(PREFIX) {
        Some((_, text)) => text.trim_end().parse().map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_survives_the_console() {
        let line = Line::Kernel { kernel: "Linux 6.12 (stage 2)".into(), cases: 95, programs: 1 };
        let console = format!("[    3.2] something{line}\r\n");
        assert_eq!(find(&console).expect("whole"), Some(line));
        assert_eq!(find("[    3.2] something else\r\n").expect("nothing"), None);
    }

    #[test]
    fn a_damaged_line_is_an_error() {
        let text = Line::End { cases: 95, programs: 1 }.to_string();
        for end in PREFIX.len()..text.len() {
            assert!(find(&text[..end]).is_err(), "{}", &text[..end]);
        }
    }
}
