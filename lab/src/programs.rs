//! Runs test programs, as `cargo test` builds them.

mod output;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::choice::Choice;
use output::Output;

/// A program, and what of it is to be run.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    path: PathBuf,
    /// The names of the tests; all, if there is none.
    tests: Vec<String>,
}

/// The programs in `directory` with something to run, in the order of their names; none if there is no such directory.
pub(crate) fn find(directory: &Path, choice: &Choice) -> Result<Vec<Program>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let unreadable = || format!("cannot read {}", directory.display());
    let mut programs = Vec::new();
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut tests = Vec::new();
        if choice.only.is_some() {
            tests = list(&path)?;
            tests.retain(|test| choice.wants_test(&format!("{name}::{test}")));
            if tests.is_empty() {
                continue;
            }
        }
        programs.push(Program { name, path, tests });
    }
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

/// The names of a program's tests.
fn list(program: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot ask {} for its tests", program.display());
    let output = Command::new(program).arg("--list").output().with_context(failed)?;
    ensure!(output.status.success(), "{}: {}", failed(), output.status);
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(lines.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Runs `program`, a test at a time, and prints a line for each test and one for itself. What else it prints goes to the
/// console as it is.
pub(crate) fn run(program: &Program) -> Result<()> {
    let name = &program.name;
    let failed = || format!("cannot run {name}");
    let (console, write) = std::io::pipe().with_context(failed)?;
    // The command holds the pipe's other end until it is dropped, and the output would never end.
    let mut child = {
        let mut command = Command::new(&program.path);
        command.args(["--test-threads=1", "--show-output"]).stdin(Stdio::null());
        if !program.tests.is_empty() {
            command.arg("--exact").args(&program.tests);
        }
        command.stderr(write.try_clone().with_context(failed)?).stdout(write);
        command.spawn().with_context(failed)?
    };
    let mut output = Output::of(name);
    for line in BufReader::new(console).split(b'\n') {
        let line = line.with_context(failed)?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        match output.take(line) {
            Some(verdict) => println!("{verdict}"),
            None => println!("{line}"),
        }
    }
    let status = child.wait().with_context(failed)?;
    println!("{}", output.end(status.success(), &status.to_string()));
    Ok(())
}
