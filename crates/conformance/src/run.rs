//! Runs cases, each in its own VM, on its own thread, within a time limit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::bench::{Bench, Watch};
use crate::case::Case;
use crate::cases::cases;
use crate::deviations;
use crate::facts::Rules;
use crate::quiet;
use crate::report::{CaseReport, Outcome, Report};
use crate::target::Target;
use crate::verdict::{Stop, Unsupported, Verdict};

/// Which kernel to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// The software engine with one architecture's rules.
    Engine {
        /// The rules.
        rules: Rules,
    },
    /// The `/dev/kvm` of this host.
    Kvm,
}

/// Why a target cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host gives no usable `/dev/kvm`.
    #[error("cannot test the kernel of this host: {0}")]
    Kvm(String),
    /// This build has no guest for the host's architecture.
    #[error("no guest code for {0} hosts yet; test the engine instead (target engine)")]
    NoGuest(&'static str),
}

/// Which cases to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Parts of ids (`T38`) or names, in either case; no words at all select every case.
    pub words: Vec<String>,
}

impl Filter {
    /// Whether `case` is selected.
    #[must_use]
    pub fn selects(&self, case: &Case) -> bool {
        let (id, name) = (case.id.to_ascii_lowercase(), case.name);
        let selects = |word: &String| {
            let word = word.to_ascii_lowercase();
            id.contains(&word) || name.contains(&word)
        };
        self.words.is_empty() || self.words.iter().any(selects)
    }
}

/// How long a case may take: a hundred times what the slowest takes on two busy cores, short enough for a person.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a case that was told to stop may take to do so.
const GRACE: Duration = Duration::from_secs(10);

/// Opens a target.
///
/// # Errors
/// Says what is missing on this host.
pub fn open(kind: TargetKind) -> Result<Arc<dyn Target>, OpenError> {
    match kind {
        TargetKind::Engine { rules } => Ok(Arc::new(crate::engine::EngineTarget::new(rules))),
        TargetKind::Kvm => crate::kvm::open(),
    }
}

/// Runs the cases that `filter` selects and reports.
///
/// # Errors
/// As [`open`].
pub fn run(kind: TargetKind, filter: &Filter) -> Result<Report, OpenError> {
    run_each(kind, filter, |_| {})
}

/// Runs the cases that `filter` selects, hands each line to `line` as soon as it is known, and reports.
///
/// # Errors
/// As [`open`].
pub fn run_each(
    kind: TargetKind,
    filter: &Filter,
    mut line: impl FnMut(&CaseReport),
) -> Result<Report, OpenError> {
    let target = open(kind)?;
    let mut reports = Vec::new();
    for case in cases().iter().filter(|case| filter.selects(case)) {
        let report = run_case(&target, case);
        line(&report);
        reports.push(report);
    }
    let facts = target.facts();
    Ok(Report::new(&facts.name, &facts.kernel, reports))
}

/// Runs one case.
#[must_use]
pub fn run_case(target: &Arc<dyn Target>, case: &Case) -> CaseReport {
    run_case_within(target, case, LIMIT)
}

/// Runs one case for at most `limit`; then its vCPUs are kicked out of the guest and it has failed.
#[must_use]
pub fn run_case_within(target: &Arc<dyn Target>, case: &Case, limit: Duration) -> CaseReport {
    let facts = target.facts();
    let (result, detail) = match case.unmet(facts) {
        Some(reason) => (Outcome::Skipped, reason.to_owned()),
        None => match within(target, case, limit) {
            Ended::Verdict(Ok(()), notes) => (Outcome::Passed, notes.join("; ")),
            Ended::Verdict(Err(Stop::Unsupported(Unsupported(reason))), _) => (Outcome::Skipped, reason),
            Ended::Verdict(Err(Stop::Broken(detail)), _) => (Outcome::Failed, detail),
            Ended::Verdict(Err(Stop::Mismatch(mismatch)), _) => {
                match deviations::known(facts, case, &mismatch) {
                    Some(known) => (Outcome::Deviation, format!("{mismatch} (known: {})", known.evidence)),
                    None => (Outcome::Failed, mismatch.to_string()),
                }
            }
            Ended::Panicked(message) => (Outcome::Failed, format!("panicked: {message}")),
            Ended::TimedOut => (Outcome::Failed, format!("timed out after {} s", limit.as_secs())),
        },
    };
    CaseReport { id: case.id.to_owned(), name: case.name.to_owned(), result, detail }
}

enum Ended {
    Verdict(Verdict, Vec<String>),
    Panicked(String),
    TimedOut,
}

fn within(target: &Arc<dyn Target>, case: &Case, limit: Duration) -> Ended {
    let watch = Arc::new(Watch::default());
    let bench = Bench::new(Arc::clone(target), Arc::clone(&watch));
    let run = case.run;
    let (send, receive) = mpsc::channel();
    let spawned = thread::Builder::new().name(case.id.to_owned()).spawn(move || {
        // A signal pending in a thread that resets a ring makes the kernel lose pages.
        quiet::block_signals();
        let verdict = catch_unwind(AssertUnwindSafe(|| run(&bench)));
        // The receiver is gone when the case took too long; nobody is left to tell.
        let _ = send.send((verdict, bench.take_notes()));
    });
    if let Err(error) = spawned {
        return Ended::Verdict(Err(Stop::Broken(format!("no thread for the case: {error}"))), Vec::new());
    }
    match receive.recv_timeout(limit) {
        Ok((Ok(verdict), notes)) => Ended::Verdict(verdict, notes),
        Ok((Err(panic), _)) => Ended::Panicked(message(&*panic)),
        Err(RecvTimeoutError::Disconnected) => {
            Ended::Panicked("the case's thread ended without a verdict".into())
        }
        Err(RecvTimeoutError::Timeout) => {
            watch.expire();
            // A case whose loops notice ends here; one that hangs in the kernel keeps its thread and its memory.
            let _ = receive.recv_timeout(GRACE);
            Ended::TimedOut
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
