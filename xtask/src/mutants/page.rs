//! The document.

use std::fmt::Write as _;

use super::catalogue::{Catcher, Program, ROWS};
use super::figures::Figures;
use super::run::Verdict;

const HEAD: &str = "\
<!-- Written by `cargo xtask mutants`; the text is in xtask/src/mutants/page.rs. -->

# Lossless, and how that is shown

## What is promised

For two cuts of committed epochs: a page whose content differs is in the epoch between them, and its content was read after
the write. It holds for every writer that is logged (vCPUs, the kernel with no vCPU running, the monitor, further sources),
also when a step fails, a value is dropped, a thread panics, or the kernel shows one of its known faults; then whole slots are
reported rather than one page too few, and an event says so.

Four things stand behind it, each of which can fail and has been seen to.

1. **The order is in the types.** A cut is a walk through types, and no other order compiles
   (compile-fail doctests of `ringmark_track::Cut`).
2. **The audit.** `--audit` hashes every page at every cut and compares those that no source reported. A change is an *escape*: the
   checkpoint fails and names slot, frame and guest address. It knows nothing of rings or bitmaps, so it also finds what
   nobody thought of. It works in production; `--audit=1%` watches a random sample anew at each cut.
3. **Models and an explorer.** The protocol is checked as a specification in all its states, the lock-free parts under the C11
   memory model, and the real tracker against the engine in all orders of events of small scenarios.
4. **Mutants.** Each known way of losing a page is put back, one at a time, and a named test has to notice, for the right reason.
   The table below is that run.

## Mutants

`cargo xtask mutants` builds the tests once with the cargo feature `mutants`, runs each catcher without a mutant (it has to pass)
and with each mutant (it has to fail, with the text of the right reason), and writes this file. `cargo xtask mutants --check` fails
if a mutant survives or this file is not what it would write. A mutant is one branch at the place of the rule
(`ringmark_dirty::mutant`); without the feature it is a constant `false`.
";

/// The whole document.
pub(super) fn text(verdicts: &[Verdict], figures: &Figures) -> String {
    let mut text = String::from(HEAD);
    let caught = verdicts.iter().filter(|verdict| verdict.caught()).count();
    let _ = writeln!(text, "\n{caught} of {} mutants are caught.\n", verdicts.len());
    text.push_str(
        "| mutant | the mistake it puts back | seen in | catcher | verdict |\n|---|---|---|---|---|\n",
    );
    for verdict in verdicts {
        let entry = verdict.entry;
        let rows: Vec<String> = entry.rows.iter().map(|row| format!("B{row}")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            entry.mutant.name(),
            entry.mistake,
            rows.join(", "),
            catcher(&entry.catcher),
            if verdict.caught() { "caught" } else { "**survives**" }
        );
    }
    text.push_str(
        "\nThe rows are ways in which pages were lost elsewhere; mutants without one break a rule that keeps Ringmark from \
         a loss of its own.\n\n| | what happened | seen in | mutants |\n|---|---|---|---|\n",
    );
    for row in ROWS {
        let mutants =
            verdicts.iter().map(|verdict| verdict.entry).filter(|entry| entry.rows.contains(&row.number));
        let mutants: Vec<String> = mutants.map(|entry| format!("`{}`", entry.mutant.name())).collect();
        let mutants = row.without.map_or_else(|| mutants.join(", "), |why| format!("none: {why}"));
        let _ = writeln!(text, "| B{} | {} | {} | {mutants} |", row.number, row.mechanism, row.seen);
    }
    text.push_str(&states(figures));
    text
}

fn states(figures: &Figures) -> String {
    let mut text = String::from(
        "\n## Models\n\nThe protocol as a specification, checked in every reachable state (`cargo run -p ringmark-model`). Where a rule \
         is broken on purpose a counterexample has to exist.\n\n| model | states | outcome |\n|---|---:|---|\n",
    );
    for model in &figures.models {
        let _ = writeln!(text, "| {} | {} | {} |", model.name, model.count, model.found);
    }
    text.push_str(
        "\nThe ring, the bitmap, the swap of an epoch with its rollback, and the hand-over of a full ring while the guest is being \
         stopped are checked with loom\n(`RUSTFLAGS=\"--cfg loom\" cargo test -p ringmark-dirty --test loom --target-dir target/loom`); \
         its controls leave one ordering out and must fail.\n\n\
         ## Schedules of the real thing\n\nThe tracker against the engine, every order of the events of small scenarios, each played from \
         a new VM; faults of real kernels are events like others. After each durable cut the image is compared with memory, and the engine \
         is asked for pages that nobody will ever hear of (`cargo test -p ringmark-track --lib explorer -- --nocapture`).\n\n\
         | scenario | schedules |\n|---|---:|\n",
    );
    for scenario in &figures.schedules {
        let _ = writeln!(text, "| {} | {} |", scenario.name, scenario.count);
    }
    let total: u64 = figures.schedules.iter().map(|scenario| scenario.count).sum();
    let _ = writeln!(text, "| together | {total} |");
    text
}

fn catcher(catcher: &Catcher) -> String {
    match catcher.program {
        Program::Unit(package) => format!("`{package}` {}", catcher.test),
        Program::Integration(package, test) => format!("`{package}` {test}::{}", catcher.test),
        Program::Loom => format!("`ringmark-dirty` loom::{}", catcher.test),
    }
}
