//! Asks the kernel every case.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringmark_conformance::{Outcome, Rules, TargetKind, cases, open, run_case_within};
use ringmark_lab::Line;

/// How long a case may take: everything here is emulated.
const LIMIT: Duration = Duration::from_secs(300);

/// Asks, prints a line for each answer, and says how many there were. `programs` will follow.
pub(crate) fn ask(programs: usize) -> Result<usize> {
    let target = open(TargetKind::Kvm).context("this kernel has no KVM to test")?;
    let facts = target.facts();
    // A kernel that lacks these would skip what the lab is for, and look as if it had passed.
    ensure!(facts.ring, "{} has no dirty rings", facts.kernel);
    if facts.rules == Rules::Arm64 {
        ensure!(facts.with_bitmap, "{} has no ring with backup bitmap: it is too old", facts.kernel);
        ensure!(facts.gic, "{} cannot create a VGICv3 with ITS", facts.kernel);
    }
    println!("{}", Line::Kernel { kernel: facts.kernel.clone(), cases: cases().len(), programs });
    for case in cases() {
        let start = Instant::now();
        let mut report = run_case_within(&target, case, LIMIT);
        if report.result == Outcome::Skipped && case.unmet(facts).is_none() {
            report.result = Outcome::Failed;
            report.detail.insert_str(0, "the kernel has all that the case needs, but ");
        }
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        println!("{}", Line::Case { report, millis });
    }
    Ok(cases().len())
}
