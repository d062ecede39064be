//! What the console's lines add up to.

use std::ops::ControlFlow;

use anyhow::{Result, bail, ensure};
use ringmark_conformance::{CaseReport, Outcome, Report};
use ringmark_lab::{Line, Said, find};

/// The lines so far.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    kernel: Option<Announced>,
    reports: Vec<CaseReport>,
    tests: Tests,
    /// Failures before the test program that is running.
    before: usize,
    programs: usize,
    ended: bool,
}

/// What the first line says.
#[derive(Debug)]
struct Announced {
    kernel: String,
    cases: usize,
    programs: usize,
}

/// What the test programs said.
#[derive(Debug, Default)]
pub(super) struct Tests {
    pub(super) passed: usize,
    /// Tests that failed, programs that ended badly though no test of theirs had failed, and what was skipped.
    pub(super) failed: Vec<String>,
    /// What those that failed have said.
    pub(super) said: Vec<Said>,
}

impl Transcript {
    /// Takes a line of the console, has it `say` what a reader wants to know of it, and breaks at the last.
    ///
    /// # Errors
    /// If the line is damaged, out of order, or says that the kernel cannot be asked.
    pub(super) fn take(&mut self, console: &str, say: impl FnOnce(&str)) -> Result<ControlFlow<()>> {
        match find(console)? {
            None => {}
            Some(Line::Kernel { kernel, cases, programs }) => {
                ensure!(self.kernel.is_none(), "the machine started over");
                say(&format!("asking {kernel}: {cases} cases and {programs} test programs"));
                self.kernel = Some(Announced { kernel, cases, programs });
            }
            Some(Line::Case { report, millis }) => {
                say(&in_words(&report, millis));
                self.reports.push(report);
            }
            Some(Line::Test { name, passed }) => {
                say(&format!("{name} {}", if passed { "passed" } else { "FAILED" }));
                if passed {
                    self.tests.passed += 1;
                } else {
                    self.tests.failed.push(name);
                }
            }
            Some(Line::Program { name, passed, skipped, said }) => {
                self.programs += 1;
                if !passed && self.tests.failed.len() == self.before {
                    self.tests.failed.push(format!("{name} as a whole"));
                }
                self.tests.failed.extend(skipped);
                self.before = self.tests.failed.len();
                self.tests.said.extend(said);
            }
            Some(Line::Broken { why }) => bail!("{why}"),
            Some(Line::End { cases, programs }) => {
                let announced = self.kernel.as_ref().map(|kernel| (kernel.cases, kernel.programs));
                let seen = (self.reports.len(), self.programs);
                ensure!(
                    announced == Some((cases, programs)) && seen == (cases, programs),
                    "only {} of {cases} cases and {} of {programs} programs arrived whole on the console",
                    seen.0,
                    seen.1
                );
                self.ended = true;
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The report of the suite, and what the test programs said.
    ///
    /// # Errors
    /// If the console ended before the last line.
    pub(super) fn finish(self, target: &str) -> Result<(Report, Tests)> {
        match self.kernel {
            Some(Announced { kernel, .. }) if self.ended => {
                Ok((Report::new(target, kernel, self.reports), self.tests))
            }
            Some(_) => bail!("the machine ended after {} cases, without the last line", self.reports.len()),
            None => bail!("the machine ended without a line: its kernel did not come up"),
        }
    }
}

fn in_words(case: &CaseReport, millis: u64) -> String {
    let result = match case.result {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "skipped",
        Outcome::Deviation => "deviation",
    };
    let detail = if case.detail.is_empty() { String::new() } else { format!(": {}", case.detail) };
    format!("{} {:<28} {millis:>6} ms  {result}{detail}", case.id, case.name)
}

#[cfg(test)]
mod tests {
    use ringmark_lab::Tail;

    use super::*;

    fn kernel() -> Line {
        Line::Kernel { kernel: "Linux 6.12".into(), cases: 1, programs: 1 }
    }

    fn case() -> Line {
        let report = CaseReport {
            id: "T01".into(),
            name: "capabilities".into(),
            result: Outcome::Passed,
            detail: String::new(),
        };
        Line::Case { report, millis: 3 }
    }

    fn program(passed: bool, skipped: &[&str]) -> Line {
        let skipped = skipped.iter().map(ToString::to_string).collect();
        let said = if passed { Vec::new() } else { vec![Said { of: "kvm".into(), tail: Tail::default() }] };
        Line::Program { name: "kvm".into(), passed, skipped, said }
    }

    const END: Line = Line::End { cases: 1, programs: 1 };

    fn read(lines: &[Line]) -> Result<(Report, Tests)> {
        let mut transcript = Transcript::default();
        for line in lines {
            if transcript.take(&format!("{line}\r\n"), |_| {})?.is_break() {
                break;
            }
        }
        transcript.finish("lab")
    }

    #[test]
    fn a_whole_console_is_a_report() {
        let test = Line::Test { name: "kvm::saves".into(), passed: true };
        let whole = [kernel(), case(), test, program(true, &[]), END];
        let (report, tests) = read(&whole).expect("whole");
        assert_eq!((report.passed, report.kernel.as_str()), (1, "Linux 6.12"));
        assert_eq!((tests.passed, tests.failed.len()), (1, 0));
    }

    #[test]
    fn failed_and_skipped_tests_and_a_bad_end_are_failures() {
        let test = Line::Test { name: "kvm::saves".into(), passed: false };
        let bad = [kernel(), case(), test, program(false, &["SKIPPED loads: no memory"]), END];
        let (_, tests) = read(&bad).expect("whole");
        assert_eq!(tests.failed, ["kvm::saves", "SKIPPED loads: no memory"]);
        assert_eq!(tests.said.len(), 1);
        let (_, tests) = read(&[kernel(), case(), program(false, &[]), END]).expect("whole");
        assert_eq!(tests.failed, ["kvm as a whole"]);
    }

    #[test]
    fn every_round_is_judged_by_itself() {
        let two = Line::Kernel { kernel: "Linux 6.12".into(), cases: 2, programs: 2 };
        let test = Line::Test { name: "kvm::saves".into(), passed: false };
        let end = Line::End { cases: 2, programs: 2 };
        let (bad, worse) = (program(false, &[]), program(false, &[]));
        let (report, tests) = read(&[two, case(), test, bad, case(), worse, end]).expect("whole");
        assert_eq!((report.passed, tests.failed), (2, vec!["kvm::saves".into(), "kvm as a whole".into()]));
    }

    #[test]
    fn a_console_without_the_last_line_is_no_report() {
        assert!(read(&[]).is_err());
        assert!(read(&[kernel()]).is_err());
        assert!(read(&[kernel(), case()]).is_err(), "every case passed, and still");
        assert!(read(&[kernel(), program(true, &[]), END]).is_err(), "a case is missing");
        assert!(read(&[kernel(), case(), END]).is_err(), "a program is missing");
        assert!(read(&[case(), program(true, &[]), END]).is_err(), "of no kernel");
        assert!(read(&[kernel(), kernel()]).is_err(), "started over");
    }

    #[test]
    fn a_kernel_that_cannot_be_asked_is_no_report() {
        let why = "no /dev/kvm".to_owned();
        let error = read(&[Line::Broken { why }]).expect_err("broken");
        assert_eq!(error.to_string(), "no /dev/kvm");
    }

    #[test]
    fn a_damaged_line_is_no_report() {
        let mut transcript = Transcript::default();
        let whole = case().to_string();
        assert!(transcript.take(&whole[..whole.len() - 2], |_| {}).is_err());
    }
}
