//! The last lines of something long.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Lines that are kept.
const LINES: usize = 40;
/// Characters that are kept of each.
const CHARACTERS: usize = 400;

/// The last lines of something long: enough for a panic with what was printed before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    left_out: usize,
    lines: VecDeque<String>,
}

impl Tail {
    /// Appends a line. Empty ones at the start are not kept.
    pub fn push(&mut self, line: &str) {
        if line.is_empty() && self.lines.is_empty() {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
            self.left_out += 1;
        }
        self.lines.push_back(line.chars().take(CHARACTERS).collect());
    }
}

impl fmt::Display for Tail {
    /// Indented, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.left_out > 0 {
            writeln!(f, "    ({} lines before these)", self.left_out)?;
        }
        let end = self.lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        self.lines.iter().take(end).try_for_each(|line| writeln!(f, "    {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_kept_whole() {
        let mut tail = Tail::default();
        ["", "one", "", "two", ""].iter().for_each(|line| tail.push(line));
        assert_eq!(tail.to_string(), "    one\n    \n    two\n");
        assert_eq!(Tail::default().to_string(), "");
    }

    #[test]
    fn of_what_is_long_the_end_is_kept() {
        let mut tail = Tail::default();
        (0..100).for_each(|number| tail.push(&format!("{number} {}", "x".repeat(1000))));
        let text = tail.to_string();
        assert!(text.starts_with("    (60 lines before these)\n    60 xxx"), "{text}");
        assert_eq!(text.lines().count(), 1 + LINES);
        assert!(text.lines().all(|line| line.len() <= 4 + CHARACTERS));
    }
}
