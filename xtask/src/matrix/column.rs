//! The kernels of the table.

use std::fs;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ringmark_conformance::{Filter, Report, Rules, TargetKind, run};

use crate::lab::{self, Arch};

/// A kernel and its answers.
#[derive(Debug)]
pub(super) struct Column {
    /// The column's head.
    pub(super) title: String,
    /// How its answers are had.
    pub(super) command: String,
    pub(super) report: Report,
}

/// Every column, the engine's first. A kernel that cannot be asked here, or was not, has none, and is named.
pub(super) fn all() -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    for rules in [Rules::X86, Rules::Arm64] {
        columns.push(Column {
            title: format!("engine, {} rules", rules.name()),
            command: format!("ringmark conformance --target engine --rules {}", rules.name()),
            report: run(TargetKind::Engine { rules }, &Filter::default())?,
        });
    }
    match run(TargetKind::Kvm, &Filter::default()) {
        Ok(report) => columns.push(Column {
            title: format!("host, {}", report.kernel),
            command: "ringmark conformance --target kvm".into(),
            report,
        }),
        Err(error) => println!("no column for this host's kernel: {error}"),
    }
    for arch in Arch::value_variants() {
        let path = lab::report_path(*arch);
        let command = format!("cargo xtask lab {}", arch.name());
        if !path.exists() {
            println!("no column for the {} lab: run `{command}` first", arch.name());
            continue;
        }
        let json = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let report: Report = serde_json::from_slice(&json)
            .with_context(|| format!("{} is no report; `{command}` writes it anew", path.display()))?;
        columns.push(Column { title: format!("{} lab, {}", arch.name(), report.kernel), command, report });
    }
    Ok(columns)
}
