//! Puts known mistakes back, one at a time, and expects a named test to notice each.

mod build;
mod catalogue;
mod entries;
mod figures;
mod page;
mod run;

use anyhow::{Context, bail};
use ringmark_dirty::mutant::Mutant;

use build::Programs;
use catalogue::Entry;

/// The document that this writes.
const PAGE: &str = "docs/lossless.md";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Changes nothing: fails if a mutant survives or if docs/lossless.md is not what this run would write.
    #[arg(long)]
    check: bool,
    /// Only these mutants (by name); the document stays as it is.
    names: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let entries = selected(&options.names)?;
    let programs = Programs::build()?;
    let verdicts = run::all(&programs, &entries)?;
    let survivors: Vec<_> = verdicts.iter().filter(|verdict| !verdict.caught()).collect();
    for survivor in &survivors {
        eprintln!("\nSURVIVED {}: {}\n{}", survivor.entry.mutant.name(), survivor.why(), survivor.output());
    }
    eprintln!("\n{} of {} mutants caught", verdicts.len() - survivors.len(), verdicts.len());
    if !survivors.is_empty() {
        bail!("{} mutants survived: a check does not check what it says", survivors.len());
    }
    if !options.names.is_empty() {
        return Ok(());
    }
    let text = page::text(&verdicts, &figures::measure(&programs)?);
    if !options.check {
        return std::fs::write(PAGE, text).with_context(|| format!("{PAGE} cannot be written"));
    }
    let found = std::fs::read_to_string(PAGE).with_context(|| format!("{PAGE} cannot be read"))?;
    if found != text {
        bail!("{PAGE} is not what this run gives: run `cargo xtask mutants` and commit it");
    }
    Ok(())
}

fn selected(names: &[String]) -> anyhow::Result<Vec<&'static Entry>> {
    if names.is_empty() {
        return Ok(entries::ENTRIES.iter().collect());
    }
    let find = |name: &String| {
        let mutant = Mutant::from_name(name).with_context(|| format!("there is no mutant {name}"))?;
        entries::of(mutant).with_context(|| format!("mutant {name} has no catcher"))
    };
    names.iter().map(find).collect()
}
