//! The document's text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ringmark_conformance::{CaseReport, Outcome, cases};

use super::column::Column;

const HEAD: &str = "\
# Conformance

The behaviour of KVM's dirty tracking, case by case, on every kernel asked. `cargo xtask conformance-matrix` writes this
page; nothing in it is written by hand.

A case asks a kernel a question and knows the documented answer. **ok**: it gave that one. **FAILED**: it gave another.
**deviation**: it gave another, which is the one this very kernel is known to give. A number refers to the reason why a
case does not apply there.
";

/// The document for `columns`.
pub(super) fn render(columns: &[Column]) -> String {
    let mut text = HEAD.to_owned();
    kernels(&mut text, columns);
    let reasons = reasons(columns);
    table(&mut text, columns, &reasons);
    listed(&mut text, &reasons);
    for (heading, outcome) in [
        ("Failures", Outcome::Failed),
        ("Known deviations", Outcome::Deviation),
        ("Remarks", Outcome::Passed),
    ] {
        details(&mut text, columns, heading, outcome);
    }
    text
}

/// Appends a line; writing to a string cannot fail.
fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{line}");
}

fn kernels(text: &mut String, columns: &[Column]) {
    line(text, format_args!("\n## Kernels\n"));
    line(text, format_args!("| | kernel | passed | failed | skipped | deviations | asked by |"));
    line(text, format_args!("|---|---|---:|---:|---:|---:|---|"));
    for (letter, column) in ('A'..).zip(columns) {
        let report = &column.report;
        line(
            text,
            format_args!(
                "| {letter} | {} | {} | {} | {} | {} | `{}` |",
                cell(&column.title),
                report.passed,
                report.failed,
                report.skipped,
                report.deviations,
                column.command
            ),
        );
    }
}

/// Every reason for a skip, with its number.
fn reasons(columns: &[Column]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for case in columns.iter().flat_map(|column| &column.report.cases) {
        if case.result == Outcome::Skipped {
            let next = reasons.len() + 1;
            reasons.entry(case.detail.clone()).or_insert(next);
        }
    }
    reasons
}

fn table(text: &mut String, columns: &[Column], reasons: &BTreeMap<String, usize>) {
    let letters: Vec<String> = ('A'..).take(columns.len()).map(String::from).collect();
    line(text, format_args!("\n## Cases\n"));
    line(text, format_args!("| case | {} | what it proves | kernel source |", letters.join(" | ")));
    line(text, format_args!("|---|{}---|---|", "---|".repeat(columns.len())));
    for case in cases() {
        let marks: Vec<String> = columns
            .iter()
            .map(|column| column.report.cases.iter().find(|report| report.id == case.id))
            .map(|report| report.map_or_else(|| "not asked".into(), |report| mark(report, reasons)))
            .collect();
        line(
            text,
            format_args!(
                "| {} {} | {} | {} | {} |",
                case.id,
                case.name,
                marks.join(" | "),
                cell(case.proves),
                cell(case.source)
            ),
        );
    }
}

fn mark(report: &CaseReport, reasons: &BTreeMap<String, usize>) -> String {
    match report.result {
        Outcome::Passed => "ok".into(),
        Outcome::Failed => "**FAILED**".into(),
        Outcome::Deviation => "deviation".into(),
        Outcome::Skipped => reasons.get(&report.detail).map_or_else(String::new, ToString::to_string),
    }
}

fn listed(text: &mut String, reasons: &BTreeMap<String, usize>) {
    if reasons.is_empty() {
        return;
    }
    line(text, format_args!("\n## Why a case does not apply\n"));
    let mut numbered: Vec<_> = reasons.iter().map(|(reason, number)| (number, reason)).collect();
    numbered.sort();
    for (number, reason) in numbered {
        line(text, format_args!("{number}. {reason}"));
    }
}

fn details(text: &mut String, columns: &[Column], heading: &str, outcome: Outcome) {
    let mut found = columns.iter().flat_map(|column| {
        let told = |case: &&CaseReport| case.result == outcome && !case.detail.is_empty();
        column.report.cases.iter().filter(told).map(|case| (&column.title, case))
    });
    let Some(first) = found.next() else { return };
    line(text, format_args!("\n## {heading}\n"));
    for (title, case) in std::iter::once(first).chain(found) {
        line(text, format_args!("- {} {} on {title}: {}", case.id, case.name, case.detail));
    }
}

/// Text that cannot end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use ringmark_conformance::Report;

    use super::*;

    fn column(title: &str, answers: &[(&str, Outcome, &str)]) -> Column {
        let case = |&(id, result, detail): &(&str, Outcome, &str)| CaseReport {
            id: id.into(),
            name: "name".into(),
            result,
            detail: detail.into(),
        };
        let report = Report::new("target", title, answers.iter().map(case).collect());
        Column { title: title.into(), command: "ask".into(), report }
    }

    /// The page itself holds every case of the suite, in its words, and no failure; `cargo xtask conformance-matrix` writes it.
    #[test]
    fn the_page_is_of_this_suite() {
        let path = crate::lab::root().join("docs/conformance.md");
        let page = std::fs::read_to_string(&path).expect("the page");
        for case in cases() {
            let start = format!("| {} {} |", case.id, case.name);
            let end = format!("| {} | {} |", cell(case.proves), cell(case.source));
            let row = page.lines().find(|line| line.starts_with(&start));
            assert!(row.is_some_and(|row| row.ends_with(&end)), "{}: write the page anew", case.id);
        }
        let rows = page.lines().filter(|line| line.starts_with("| T")).count();
        assert_eq!(rows, cases().len(), "write the page anew");
        assert!(!page.contains("**FAILED** |"), "a kernel fails");
    }

    #[test]
    fn every_answer_has_its_mark_and_its_words() {
        let text = render(&[
            column("one", &[("T01", Outcome::Passed, ""), ("T02", Outcome::Skipped, "no rings")]),
            column(
                "two",
                &[
                    ("T01", Outcome::Failed, "expected 1, observed 2"),
                    ("T02", Outcome::Deviation, "known: so"),
                ],
            ),
        ]);
        let row = |id: &str| text.lines().find(|line| line.starts_with(&format!("| {id} "))).expect("a row");
        assert!(row("T01").contains("| ok | **FAILED** |"), "{}", row("T01"));
        assert!(row("T02").contains("| 1 | deviation |"), "{}", row("T02"));
        assert!(row("T03").contains("| not asked | not asked |"), "{}", row("T03"));
        assert!(text.contains("1. no rings"));
        assert!(text.contains("on two: expected 1, observed 2"));
        assert!(text.contains("on two: known: so"));
        assert!(!text.contains("## Remarks"));
    }
}
