//! The table of every case on every kernel: `docs/conformance.md`.

mod column;
mod page;

use std::fs;

use anyhow::{Context, Result, ensure};
use ringmark_conformance::Outcome;

use crate::lab;

/// Asks what can be asked here, takes the last reports of the labs, and writes the document.
pub(crate) fn write() -> Result<()> {
    let columns = column::all()?;
    let path = lab::root().join("docs/conformance.md");
    fs::write(&path, page::render(&columns)).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{} has {} columns", path.display(), columns.len());
    let failed: Vec<String> = columns
        .iter()
        .flat_map(|column| {
            let failed = column.report.cases.iter().filter(|case| case.result == Outcome::Failed);
            failed.map(|case| format!("{} on {}", case.id, column.title))
        })
        .collect();
    ensure!(failed.is_empty(), "the table has failures: {}", failed.join(", "));
    Ok(())
}
