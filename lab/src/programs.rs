//! Runs test programs, as `cargo test` builds them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use ringmark_lab::Line;

/// How a test says, on its standard error, that it did not do what it is for.
const SKIPPED: &str = "SKIPPED";

/// The programs in `directory`, in the order of their names; none if there is no such directory.
pub(crate) fn find(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let unreadable = || format!("cannot read {}", directory.display());
    let mut programs = Vec::new();
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        programs.push(entry.with_context(unreadable)?.path());
    }
    programs.sort();
    Ok(programs)
}

/// Runs `program`, a test at a time, and prints a line for each test and one for itself. What else it prints goes to the
/// console as it is.
pub(crate) fn run(program: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = || format!("cannot run {name}");
    let (output, write) = std::io::pipe().with_context(failed)?;
    // The command holds the pipe's other end until it is dropped, and the output would never end.
    let mut child = {
        let mut command = Command::new(program);
        command.args(["--test-threads=1", "--show-output"]).stdin(Stdio::null());
        command.stderr(write.try_clone().with_context(failed)?).stdout(write);
        command.spawn().with_context(failed)?
    };
    let mut skipped = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(failed)?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if let Some((test, passed)) = verdict(line) {
            println!("{}", Line::Test { name: format!("{name}::{test}"), passed });
        } else {
            if line.trim_start().starts_with(SKIPPED) {
                skipped.push(line.trim().to_owned());
            }
            println!("{line}");
        }
    }
    let status = child.wait().with_context(failed)?;
    println!("{}", Line::Program { name, passed: status.success(), skipped });
    Ok(())
}

/// The test's name and whether it passed, from `test NAME ... ok` and the like.
fn verdict(line: &str) -> Option<(&str, bool)> {
    let (test, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((test.trim(), result == "ok"))
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn only_ok_has_passed() {
        assert_eq!(verdict("test gic::saves ... ok"), Some(("gic::saves", true)));
        assert_eq!(verdict("test gic::saves ... FAILED"), Some(("gic::saves", false)));
        assert_eq!(verdict("test gic::saves ... ignored"), Some(("gic::saves", false)));
        assert_eq!(verdict("test result: ok. 3 passed"), None);
    }
}
