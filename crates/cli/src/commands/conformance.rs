//! `ringmark conformance`: holds a hypervisor to the rules of KVM's dirty tracking.

use ringmark_conformance::{self as suite, CaseReport, Filter, Outcome, Report, TargetKind};
use serde::Serialize;

use crate::args::{ConformanceArgs, ConformanceTarget, Rules};
use crate::failure::{Code, Failure, OrFail, Result};
use crate::output;

/// Runs the cases, a line each as it is known.
pub(crate) fn run(args: &ConformanceArgs, as_json: bool) -> Result {
    if args.list {
        list(as_json);
        return Ok(());
    }
    let kind = kind(args)?;
    let filter = Filter { words: args.case.iter().cloned().collect() };
    let report = suite::run_each(kind, &filter, |case| {
        if !as_json {
            print(case);
        }
    })
    .or_fail(Code::NoHypervisor)?;
    if report.cases.is_empty() {
        return Err(Failure::new(Code::Usage, "no case is called so").advice("`--list` lists the cases"));
    }
    if as_json {
        output::json(&Document { schema: output::SCHEMA, report: &report });
    } else {
        output::line(format_args!(
            "{} on {}: {} passed, {} failed, {} skipped, {} known deviations",
            report.target, report.kernel, report.passed, report.failed, report.skipped, report.deviations
        ));
    }
    if report.failed == 0 {
        return Ok(());
    }
    Err(Failure::new(Code::CheckFailed, format!("{} cases failed", report.failed))
        .advice("a failed case is a finding about this kernel: `--case ID` runs it alone")
        .documented())
}

/// A report with the version of its fields.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    report: &'a Report,
}

fn kind(args: &ConformanceArgs) -> Result<TargetKind> {
    match (args.target, args.rules) {
        (ConformanceTarget::Kvm, None) => Ok(TargetKind::Kvm),
        (ConformanceTarget::Kvm, Some(_)) => {
            Err(Failure::new(Code::Usage, "a kernel has its own rules: --rules goes with --target engine"))
        }
        (ConformanceTarget::Engine, rules) => Ok(TargetKind::Engine {
            rules: match rules.unwrap_or_default() {
                Rules::X86 => suite::Rules::X86,
                Rules::Arm64 => suite::Rules::Arm64,
            },
        }),
    }
}

fn print(case: &CaseReport) {
    let result = match case.result {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "skipped",
        Outcome::Deviation => "deviation",
    };
    let detail = if case.detail.is_empty() { String::new() } else { format!(": {}", case.detail) };
    output::line(format_args!("{} {:<44} {result}{detail}", case.id, case.name));
}

fn list(as_json: bool) {
    if as_json {
        let cases: Vec<_> = suite::cases()
            .iter()
            .map(|case| {
                serde_json::json!({
                    "id": case.id, "name": case.name, "proves": case.proves, "source": case.source,
                    "needs": case.needs.iter().map(|need| need.letter()).collect::<Vec<_>>(),
                })
            })
            .collect();
        output::json(&serde_json::json!({ "schema": output::SCHEMA, "cases": cases }));
        return;
    }
    for case in suite::cases() {
        output::line(format_args!(
            "{} {}\n    proves: {}\n    source: {}",
            case.id, case.name, case.proves, case.source
        ));
    }
}
