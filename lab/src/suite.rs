//! Asks the kernel every case.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringmark_conformance::{Case, Outcome, Rules, Target, TargetKind, cases, open, run_case_within};
use ringmark_lab::Line;

use crate::choice::Choice;

/// How long a case may take: everything here is emulated.
const LIMIT: Duration = Duration::from_secs(300);

/// The cases to ask, and the kernel.
pub(crate) struct Suite {
    target: Arc<dyn Target>,
    cases: Vec<&'static Case>,
}

impl Suite {
    /// The chosen cases for this kernel, which has what the lab is for.
    pub(crate) fn open(choice: &Choice) -> Result<Self> {
        let target = open(TargetKind::Kvm).context("this kernel has no KVM to test")?;
        let facts = target.facts();
        // A kernel that lacks these would skip what the lab is for, and look as if it had passed.
        ensure!(facts.ring, "{} has no dirty rings", facts.kernel);
        if facts.rules == Rules::Arm64 {
            ensure!(facts.with_bitmap, "{} has no ring with backup bitmap: it is too old", facts.kernel);
            ensure!(facts.gic, "{} cannot create a VGICv3 with ITS", facts.kernel);
        }
        let cases = cases().iter().filter(|case| choice.wants_case(case)).collect();
        Ok(Self { target, cases })
    }

    /// The kernel's name.
    pub(crate) fn kernel(&self) -> String {
        self.target.facts().kernel.clone()
    }

    /// How many cases there are.
    pub(crate) fn cases(&self) -> usize {
        self.cases.len()
    }

    /// Asks, and prints a line for each answer.
    pub(crate) fn ask(&self) {
        for case in &self.cases {
            let start = Instant::now();
            let mut report = run_case_within(&self.target, case, LIMIT);
            if report.result == Outcome::Skipped && case.unmet(self.target.facts()).is_none() {
                report.result = Outcome::Failed;
                report.detail.insert_str(0, "the kernel has all that the case needs, but ");
            }
            let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            println!("{}", Line::Case { report, millis });
        }
    }
}
