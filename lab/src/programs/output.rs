//! What a test program prints, as `--show-output` and one thread make it.

use ringmark_lab::{Line, Said, Tail};

/// How a test says, on its standard error, that it did not do what it is for.
const SKIPPED: &str = "SKIPPED";

/// The output of a test program, read line by line.
#[derive(Debug)]
pub(super) struct Output {
    program: String,
    failed: Vec<String>,
    skipped: Vec<String>,
    said: Vec<Said>,
    /// Whether what follows was said by the last of these.
    open: bool,
    tail: Tail,
}

impl Output {
    pub(super) fn of(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            failed: Vec::new(),
            skipped: Vec::new(),
            said: Vec::new(),
            open: false,
            tail: Tail::default(),
        }
    }

    /// Takes the next line; it is a test's verdict, or nothing of the protocol.
    pub(super) fn take(&mut self, line: &str) -> Option<Line> {
        self.tail.push(line);
        if let Some((test, passed)) = verdict(line) {
            let name = self.name(test);
            if !passed {
                self.failed.push(name.clone());
            }
            return Some(Line::Test { name, passed });
        }
        if line.trim_start().starts_with(SKIPPED) {
            self.skipped.push(line.trim().to_owned());
        }
        if let Some(test) = heading(line) {
            let of = self.name(test);
            self.open = self.failed.contains(&of);
            if self.open {
                self.said.push(Said { of, tail: Tail::default() });
            }
        } else if matches!(line, "failures:" | "successes:") {
            self.open = false;
        } else if let (true, Some(said)) = (self.open, self.said.last_mut()) {
            said.tail.push(line);
        }
        None
    }

    /// The program's own line, after it has `ended` as it says, well if it `passed`.
    pub(super) fn end(mut self, passed: bool, ended: &str) -> Line {
        // One that ends before its summary never prints what its tests said; the end of its output is what there is.
        if !passed && self.said.is_empty() {
            self.tail.push(ended);
            self.said.push(Said { of: self.program.clone(), tail: self.tail });
        }
        Line::Program { name: self.program, passed, skipped: self.skipped, said: self.said }
    }

    fn name(&self, test: &str) -> String {
        format!("{}::{test}", self.program)
    }
}

/// The test's name and whether it passed, from `test NAME ... ok` and the like.
fn verdict(line: &str) -> Option<(&str, bool)> {
    let (test, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((test.trim(), result == "ok"))
}

/// The test whose output follows.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_has_passed() {
        assert_eq!(verdict("test gic::saves ... ok"), Some(("gic::saves", true)));
        assert_eq!(verdict("test gic::saves ... FAILED"), Some(("gic::saves", false)));
        assert_eq!(verdict("test gic::saves ... ignored"), Some(("gic::saves", false)));
        assert_eq!(verdict("test result: ok. 3 passed"), None);
    }

    /// What is said of a program that printed `text` and then ended.
    fn said(text: &str, passed: bool) -> (Vec<String>, Vec<(String, String)>) {
        let mut output = Output::of("gic");
        text.lines().for_each(|line| drop(output.take(line)));
        let Line::Program { skipped, said, .. } = output.end(passed, "exit status: 101") else {
            panic!("the last line is the program's")
        };
        (skipped, said.into_iter().map(|said| (said.of, said.tail.to_string())).collect())
    }

    const SUMMARY: &str = "
running 3 tests
test loads ... ok
test saves ... FAILED
test works ... FAILED

successes:

---- loads stdout ----
SKIPPED loads: no memory

successes:
    loads

failures:

---- saves stdout ----
3 tables

thread 'saves' panicked at tests/gic.rs:4:5:
no table
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

---- works stdout ----
no line

failures:
    saves
    works

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn what_failed_tests_said_is_kept_by_their_names() {
        let (skipped, said) = said(SUMMARY, false);
        assert_eq!(skipped, ["SKIPPED loads: no memory"]);
        let [(saves, first), (works, second)] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!((saves.as_str(), works.as_str()), ("gic::saves", "gic::works"));
        assert!(first.starts_with("    3 tables\n") && first.contains("\n    no table\n"), "{first}");
        assert_eq!(second, "    no line\n");
    }

    #[test]
    fn a_program_that_ends_early_is_quoted_itself() {
        let (_, said) = said("running 3 tests\ntest loads ... ok\nmemory allocation failed\n", false);
        let [(of, tail)] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!(of, "gic");
        assert!(tail.contains("    memory allocation failed\n    exit status: 101\n"), "{tail}");
    }

    #[test]
    fn of_what_passed_nothing_is_said() {
        assert_eq!(said("test loads ... ok\n---- loads stdout ----\n3 tables\n", true).1, []);
    }
}
