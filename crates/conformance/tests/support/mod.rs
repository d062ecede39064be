//! The suite as a test harness: one test for each case.

use std::sync::Arc;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use ringmark_conformance::{Outcome, Target, cases, run_case};

/// One test for each case on `target`, named `target::id-name`. What does not apply is ignored, and its kind says why.
pub(crate) fn trials(target: &Arc<dyn Target>) -> Vec<Trial> {
    let facts = target.facts();
    let trial = |case: &'static ringmark_conformance::Case| {
        let name = format!("{}::{}-{}", facts.name, case.id, case.name);
        let unmet = case.unmet(facts);
        let target = Arc::clone(target);
        let told = name.clone();
        let run = move || {
            let report = run_case(&target, case);
            match report.result {
                Outcome::Failed => return Err(Failed::from(report.detail)),
                Outcome::Skipped => eprintln!("SKIPPED {told}: {}", report.detail),
                Outcome::Deviation => eprintln!("DEVIATION {told}: {}", report.detail),
                Outcome::Passed if !report.detail.is_empty() => eprintln!("NOTE {told}: {}", report.detail),
                Outcome::Passed => {}
            }
            Ok(())
        };
        Trial::test(name, run)
            .with_ignored_flag(unmet.is_some())
            .with_kind(unmet.map(|reason| format!("skipped: {reason}")).unwrap_or_default())
    };
    cases().iter().map(trial).collect()
}

/// Runs `trials` as the command line says. Ignored tests stay ignored: they have no meaning on their target.
pub(crate) fn conclude(trials: Vec<Trial>) -> Conclusion {
    libtest_mimic::run(&Arguments::from_args(), trials)
}
