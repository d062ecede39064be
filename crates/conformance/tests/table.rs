//! The table of cases, the report's form, and the list of deviations.

use std::collections::BTreeSet;

use ringmark_conformance::{
    DEVIATIONS, Filter, Outcome, Report, Rules, TargetKind, cases, open, run, run_each,
};

#[test]
fn the_table_has_t01_to_t95_in_order() {
    let ids: Vec<String> = (1..=95).map(|n| format!("T{n:02}")).collect();
    assert_eq!(cases().iter().map(|case| case.id).collect::<Vec<_>>(), ids);
}

#[test]
fn every_case_says_what_it_proves_and_where_that_comes_from() {
    let names: BTreeSet<_> = cases().iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases().len(), "names are unique");
    for case in cases() {
        assert!(case.proves.ends_with('.') && case.proves.len() > 30, "{}: {}", case.id, case.proves);
        assert!(!case.source.is_empty(), "{}", case.id);
        assert!(!case.needs.is_empty(), "{}", case.id);
        assert!(case.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", case.name);
    }
}

#[test]
fn a_target_skips_the_other_architectures_cases_only() {
    let skipped = |rules| -> Vec<&str> {
        let target = open(TargetKind::Engine { rules }).expect("the engine is everywhere");
        cases().iter().filter(|case| case.unmet(target.facts()).is_some()).map(|case| case.id).collect()
    };
    assert_eq!(skipped(Rules::Arm64), ["T17", "T46", "T47", "T48"]);
    let x86 = skipped(Rules::X86);
    let arm64: Vec<String> = (66..=80).map(|n| format!("T{n}")).collect();
    let mut want: Vec<&str> = vec!["T10", "T12", "T13", "T14", "T15", "T16"];
    want.extend(arm64.iter().map(String::as_str));
    want.extend(["T82", "T83", "T90", "T95"]);
    assert_eq!(x86, want);
}

#[test]
fn a_report_counts_what_it_lists_and_survives_json() {
    let kind = TargetKind::Engine { rules: Rules::X86 };
    let filter = Filter { words: vec!["T01".into(), "t12".into(), "ring-full-exit".into()] };
    let mut lines = Vec::new();
    let report = run_each(kind, &filter, |case| lines.push(case.clone())).expect("the engine is everywhere");
    assert_eq!(lines, report.cases);
    assert_eq!((report.passed, report.failed, report.skipped, report.deviations), (2, 0, 1, 0));
    let json = serde_json::to_value(&report).expect("a report is plain data");
    assert_eq!(json["target"], "engine-x86");
    assert_eq!(json["cases"][1]["result"], "skipped");
    assert_eq!(json["cases"][2]["id"], "T38");
    assert_eq!(serde_json::from_value::<Report>(json).expect("and back"), report);
}

#[test]
fn a_filter_that_selects_nothing_gives_an_empty_report() {
    let filter = Filter { words: vec!["no-such-case".into()] };
    let report = run(TargetKind::Engine { rules: Rules::Arm64 }, &filter).expect("the engine is everywhere");
    assert!(report.cases.is_empty());
}

#[test]
fn deviations_name_cases_and_evidence() {
    for known in DEVIATIONS {
        assert!(cases().iter().any(|case| case.id == known.case), "{}", known.case);
        assert!(!known.evidence.is_empty() && !known.what.is_empty(), "{}", known.case);
    }
    assert_eq!(serde_json::to_value(Outcome::Deviation).expect("plain data"), "deviation");
}
