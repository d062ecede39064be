//! What is asked and run, and how often: everything once, unless the environment says otherwise. A kernel hands
//! variables on its command line to its first program.

use std::env;

use anyhow::{Context, Result};
use ringmark_conformance::{Case, Filter};
use ringmark_lab::{ONLY, REPEAT};

/// A choice of cases and tests.
#[derive(Debug)]
pub(crate) struct Choice {
    /// A part of the names of what is chosen.
    pub(crate) only: Option<String>,
    pub(crate) repeat: usize,
}

impl Choice {
    pub(crate) fn from_environment() -> Result<Self> {
        let repeat = match env::var(REPEAT) {
            Ok(number) => number.parse().with_context(|| format!("{REPEAT} is no number: {number}"))?,
            Err(_) => 1,
        };
        Ok(Self { only: env::var(ONLY).ok(), repeat })
    }

    pub(crate) fn wants_case(&self, case: &Case) -> bool {
        Filter { words: self.only.iter().cloned().collect() }.selects(case)
    }

    /// Whether the test of this name, its program's included, is chosen.
    pub(crate) fn wants_test(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}
