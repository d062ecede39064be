//! Running each catcher without a mutant, then with each.

use std::collections::BTreeSet;
use std::io::Read;
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::build::{Built, Programs};
use super::catalogue::{Catcher, Entry};

/// A catcher takes seconds; one that takes longer hangs, and that is not what it is expected to do.
const LIMIT: Duration = Duration::from_secs(120);

/// How one run of a test ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Passed,
    Failed,
    /// It was not run: the program knows no such test, or it was ignored.
    Absent,
    TimedOut,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ended: Ended,
    pub(super) output: String,
}

/// What became of one mutant.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) entry: &'static Entry,
    outcome: Outcome,
}

impl Verdict {
    /// Failed, and for the right reason.
    pub(super) fn caught(&self) -> bool {
        self.outcome.ended == Ended::Failed && self.outcome.output.contains(self.entry.says)
    }

    pub(super) fn why(&self) -> String {
        match self.outcome.ended {
            Ended::Failed => format!("its catcher failed, but not with `{}`", self.entry.says),
            Ended::Passed => "its catcher passed".into(),
            Ended::Absent => "its catcher was not run".into(),
            Ended::TimedOut => format!("its catcher did not end in {} s", LIMIT.as_secs()),
        }
    }

    pub(super) fn output(&self) -> &str {
        &self.outcome.output
    }
}

/// The verdicts, in the order of `entries`.
pub(super) fn all(programs: &Programs, entries: &[&'static Entry]) -> anyhow::Result<Vec<Verdict>> {
    let catchers: BTreeSet<Catcher> = entries.iter().map(|entry| entry.catcher).collect();
    let catchers: Vec<Catcher> = catchers.into_iter().collect();
    eprintln!("{} catchers without a mutant", catchers.len());
    for (catcher, outcome) in
        catchers.iter().zip(in_parallel(&catchers, |catcher| test(programs, catcher, None)))
    {
        let outcome = outcome?;
        if outcome.ended != Ended::Passed {
            bail!(
                "{} does not pass without a mutant ({:?}):\n{}",
                catcher.test,
                outcome.ended,
                outcome.output
            );
        }
    }
    eprintln!("{} mutants", entries.len());
    let outcomes = in_parallel(entries, |entry| {
        let outcome = test(programs, &entry.catcher, Some(entry.mutant.name()))?;
        let verdict = Verdict { entry, outcome };
        eprintln!("{} {}", if verdict.caught() { "caught  " } else { "SURVIVED" }, entry.mutant.name());
        anyhow::Ok(verdict)
    });
    outcomes.into_iter().collect()
}

/// Runs one test alone.
fn test(programs: &Programs, catcher: &Catcher, mutant: Option<&str>) -> anyhow::Result<Outcome> {
    let arguments = ["--exact", catcher.test, "--nocapture", "--test-threads=1"];
    run(programs.get(catcher.program)?, &arguments, mutant, LIMIT)
}

/// Runs a test program, for no longer than `limit`.
pub(super) fn run(
    built: &Built,
    arguments: &[&str],
    mutant: Option<&str>,
    limit: Duration,
) -> anyhow::Result<Outcome> {
    let mut command = Command::new(&built.executable);
    // Away from the sources, or proptest remembers failures that are expected there.
    command.args(arguments).current_dir(&built.folder).stdin(Stdio::null());
    command.env("RUST_BACKTRACE", "0").env_remove("RINGMARK_MUTANT");
    // The same cases each time, and the first that fails is enough.
    command.env("PROPTEST_RNG_SEED", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
    if let Some(mutant) = mutant {
        command.env("RINGMARK_MUTANT", mutant);
    }
    let (mut reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child =
        command.spawn().with_context(|| format!("{} cannot be run", built.executable.display()))?;
    // Its ends of the pipe go with it, or the reader never sees the end.
    drop(command);
    let reader = thread::spawn(move || {
        let mut output = Vec::new();
        let read = reader.read_to_end(&mut output);
        read.map(|_| String::from_utf8_lossy(&output).into_owned())
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let output = reader.join().map_err(|_| anyhow::anyhow!("the output's reader panicked"))??;
    let ended = match status {
        None => Ended::TimedOut,
        Some(status) if !status.success() => Ended::Failed,
        Some(_) if output.contains(" 0 passed") => Ended::Absent,
        Some(_) => Ended::Passed,
    };
    Ok(Outcome { ended, output })
}

/// `work` on every item, on all processors; the results in the order of the items.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = Mutex::new(0..items.len());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                loop {
                    let at = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(at) = at else { return };
                    let result = work(&items[at]);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
