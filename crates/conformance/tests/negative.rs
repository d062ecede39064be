//! A suite that cannot fail proves nothing: each broken rule must fail the cases that know it.

#[path = "support/broken.rs"]
mod broken;

use std::sync::Arc;
use std::time::Duration;

use broken::{Broken, Fault};
use ringmark_conformance::{
    Case, Outcome, Rules, Target, TargetKind, cases, open, run_case, run_case_within,
};

/// The faults, the rules to break them under, and the cases that must notice each.
const RESPONSIBLE: &[(Fault, Rules, &[&str])] = &[
    (Fault::ResetCountsOneLess, Rules::X86, &["T25", "T26", "T27", "T28", "T29", "T35", "T41", "T42", "T43"]),
    (Fault::ResetLeavesPagesWritable, Rules::X86, &["T26", "T27", "T29", "T42", "T88"]),
    (Fault::SoftLimitOneLater, Rules::X86, &["T38"]),
    (Fault::GetKeepsBits, Rules::X86, &["T50", "T58", "T60", "T65"]),
    (Fault::ClearDoesNothing, Rules::X86, &["T55", "T56", "T58", "T59", "T65", "T93"]),
    (Fault::FailedGetKeepsBits, Rules::X86, &["T54"]),
    (Fault::CapabilitiesNeverRefused, Rules::X86, &["T02", "T04", "T05", "T07", "T08", "T17", "T57"]),
    (Fault::LogFlagIgnored, Rules::X86, &["T22", "T36", "T46", "T50", "T60", "T65", "T88"]),
    (
        Fault::DeviceWritesUnlogged,
        Rules::Arm64,
        &["T67", "T68", "T70", "T71", "T72", "T73", "T76", "T77", "T88"],
    ),
];

fn outcome(target: &Arc<dyn Target>, id: &str) -> (Outcome, String) {
    let case = cases().iter().find(|case| case.id == id).expect("the case exists");
    let report = run_case(target, case);
    (report.result, report.detail)
}

#[test]
fn each_broken_rule_fails_the_cases_that_know_it() {
    for (fault, rules, ids) in RESPONSIBLE {
        let inner = open(TargetKind::Engine { rules: *rules }).expect("the engine is everywhere");
        let sound: Arc<dyn Target> = Arc::new(Broken { inner: Arc::clone(&inner), fault: Fault::None });
        let broken: Arc<dyn Target> = Arc::new(Broken { inner, fault: *fault });
        for id in *ids {
            assert_eq!(outcome(&sound, id), (Outcome::Passed, String::new()), "{id} without the fault");
            let (result, detail) = outcome(&broken, id);
            assert_eq!(result, Outcome::Failed, "{id} with {fault:?}: {detail}");
        }
    }
}

#[test]
fn a_case_that_takes_too_long_is_kicked_out_and_fails() {
    let target = open(TargetKind::Engine { rules: Rules::X86 }).expect("the engine is everywhere");
    let sweep = cases().iter().find(|case| case.id == "T41").expect("the case exists");
    let report = run_case_within(&target, sweep, Duration::ZERO);
    assert_eq!(report.result, Outcome::Failed);
    assert_eq!(report.detail, "timed out after 0 s");
}

#[test]
fn no_case_passes_whatever_the_kernel_does() {
    for rules in [Rules::X86, Rules::Arm64] {
        let inner = open(TargetKind::Engine { rules }).expect("the engine is everywhere");
        let fails = |case: &Case, fault: Fault| {
            let broken: Arc<dyn Target> = Arc::new(Broken { inner: Arc::clone(&inner), fault });
            run_case(&broken, case).result == Outcome::Failed
        };
        let blind: Vec<&str> = cases()
            .iter()
            .filter(|case| case.unmet(inner.facts()).is_none())
            .filter(|case| !Fault::ALL.iter().any(|&fault| fails(case, fault)))
            .map(|case| case.id)
            .collect();
        assert!(blind.is_empty(), "{rules:?}: {blind:?}");
    }
}
