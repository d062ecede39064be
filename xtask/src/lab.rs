//! The lab: mainline kernels where the machine has none.

mod apt;
mod arch;
mod boot;
mod build;
mod initrd;
mod kernel;
mod options;
mod shell;
mod toolchain;
mod tools;
mod transcript;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringmark_conformance::{Outcome, Report};
use ringmark_lab::Tail;

pub(crate) use self::arch::Arch;
pub(crate) use self::options::Options;
use self::transcript::{Tests, Transcript};

/// How long a boot and every case together may take, once.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// The longest silence of a console: longer than any case, its own limit included.
const SILENCE: Duration = Duration::from_secs(6 * 60);
/// How many failures are quoted.
const QUOTED: usize = 10;

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// Where everything of the lab is kept.
pub(crate) fn directory() -> PathBuf {
    root().join("target/lab")
}

/// Where the last report of a lab is kept.
pub(crate) fn report_path(arch: Arch) -> PathBuf {
    directory().join(format!("{}.json", arch.name()))
}

/// Builds, boots, reads, and reports; with several labs, one after the other up to the boot and then all at once.
pub(crate) fn run(options: &Options) -> Result<()> {
    let arches = options.arches();
    let several = arches.len() > 1;
    let labs = arches.into_iter().map(|arch| {
        let prefix = if several { format!("{:<6}", arch.name()) } else { String::new() };
        Lab::prepare(arch, options, prefix)
    });
    let mut labs: Vec<Lab> = labs.collect::<Result<_>>()?;
    let ended: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = labs.iter_mut().map(|lab| scope.spawn(|| lab.run(options))).collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut failures = Vec::new();
    for (lab, ended) in labs.iter().zip(ended) {
        if let Err(error) = ended.and_then(|(report, tests)| judge(&report, &tests)) {
            failures.push(format!(
                "{error:#}; the {} console is in {}",
                lab.arch.name(),
                lab.console.display()
            ));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\nerror: "));
    Ok(())
}

/// A lab that is ready to boot.
struct Lab {
    arch: Arch,
    command: Command,
    console: PathBuf,
    /// Before each line that it prints while it runs.
    prefix: String,
    /// Nobody else runs it meanwhile.
    _lock: File,
}

impl Lab {
    fn prepare(arch: Arch, options: &Options, prefix: String) -> Result<Self> {
        let home = directory().join(arch.name());
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let lock = File::create(home.join("lock")).context("cannot create the lab's lock")?;
        ensure!(lock.try_lock().is_ok(), "another run of the {} lab is under way", arch.name());
        // A run that fails leaves no report of an earlier one behind; one of a part says nothing about the whole.
        let report_path = report_path(arch);
        if options.is_whole() && report_path.exists() {
            fs::remove_file(&report_path).context("cannot remove the last report")?;
        }
        let start = Instant::now();
        let command = command(arch, options, &home)?;
        println!("{prefix}prepared in {:.1} s", start.elapsed().as_secs_f64());
        Ok(Self { arch, command, console: home.join("console.log"), prefix, _lock: lock })
    }

    /// Boots, and reads the console to its end.
    fn run(&mut self, options: &Options) -> Result<(Report, Tests)> {
        let start = Instant::now();
        let (mut transcript, mut end) = (Transcript::default(), Tail::default());
        let limit = LIMIT.saturating_mul(options.repeat.get());
        let ended = boot::watch(&mut self.command, limit, SILENCE, &self.console, |line| {
            end.push(line.trim_end());
            transcript.take(line, |said| println!("{}{said}", self.prefix))
        });
        let (report, tests) = ended
            .and_then(|()| transcript.finish(self.arch.target_name()))
            .inspect_err(|_| print!("the {} console ends with\n{end}", self.arch.name()))
            .with_context(|| format!("the {} lab failed", self.arch.name()))?;
        println!("{}ran for {:.1} s", self.prefix, start.elapsed().as_secs_f64());
        if options.is_whole() {
            save(&report, &report_path(self.arch))?;
        }
        Ok((report, tests))
    }
}

/// What to start: an emulator with the kernel, or the program alone where the machine itself will do.
fn command(arch: Arch, options: &Options, home: &Path) -> Result<Command> {
    let native = arch == Arch::Arm64 && arch.is_host() && Path::new("/dev/kvm").exists();
    if native {
        println!("this machine is one itself: no emulation");
        let tests = home.join("tests");
        let built = build::build(arch)?;
        build::collect(&built.tests, &tests)?;
        let mut command = Command::new(built.program);
        command.arg(tests).envs(options.environment());
        return Ok(command);
    }
    tools::require(&arch.tools())?;
    let kernel = kernel::fetch(arch, &home.join("kernel"))?;
    println!("kernel {}", kernel.release);
    let built = build::build(arch)?;
    let initrd = home.join("initrd");
    initrd::write(&initrd, &built.program, &kernel.modules, &built.tests)?;
    Ok(arch.emulator(&kernel.image, &initrd, &options.environment()))
}

fn save(report: &Report, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("cannot encode the report")?;
    fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}

fn judge(report: &Report, tests: &Tests) -> Result<()> {
    println!(
        "{} on {}: {} passed, {} failed, {} skipped, {} known deviations",
        report.target, report.kernel, report.passed, report.failed, report.skipped, report.deviations
    );
    println!("tests: {} passed, {} failed", tests.passed, tests.failed.len());
    print!("{}", evidence(report, tests));
    ensure!(report.failed == 0, "{} of {} cases failed", report.failed, report.cases.len());
    let failed: BTreeSet<_> = tests.failed.iter().map(String::as_str).collect();
    ensure!(failed.is_empty(), "tests failed: {}", Vec::from_iter(failed).join(", "));
    Ok(())
}

/// What the cases and tests that failed have said themselves.
fn evidence(report: &Report, tests: &Tests) -> String {
    let failed = report.cases.iter().filter(|case| case.result == Outcome::Failed);
    let cases = failed.map(|case| format!("{} {}:\n    {}\n", case.id, case.name, case.detail));
    let all: Vec<String> =
        cases.chain(tests.said.iter().map(|said| format!("{}:\n{}", said.of, said.tail))).collect();
    let mut text: String = all.iter().take(QUOTED).map(|said| format!("\n{said}")).collect();
    if all.len() > QUOTED {
        text += &format!("\n{} more have said something, see the console\n", all.len() - QUOTED);
    }
    text
}

#[cfg(test)]
mod tests {
    use ringmark_conformance::CaseReport;
    use ringmark_lab::Said;

    use super::*;

    fn failures(cases: usize, tests: usize) -> (Report, Tests) {
        let case = |number| CaseReport {
            id: format!("T{number:02}"),
            name: "reset".into(),
            result: if number == 0 { Outcome::Passed } else { Outcome::Failed },
            detail: format!("expected {number}"),
        };
        let said = |number| {
            let mut tail = Tail::default();
            tail.push(&format!("panic {number}"));
            Said { of: format!("kvm::test{number}"), tail }
        };
        let failed = (1..=tests).map(|number| format!("kvm::test{number}")).collect();
        let tests = Tests { passed: 1, failed, said: (1..=tests).map(said).collect() };
        (Report::new("lab", "Linux", (0..=cases).map(case).collect()), tests)
    }

    #[test]
    fn whatever_failed_is_quoted_and_is_an_error() {
        let (report, tests) = failures(1, 1);
        assert_eq!(evidence(&report, &tests), "\nT01 reset:\n    expected 1\n\nkvm::test1:\n    panic 1\n");
        for (cases, tests, good) in [(0, 0, true), (1, 0, false), (0, 1, false)] {
            let (report, tests) = failures(cases, tests);
            assert_eq!(judge(&report, &tests).is_ok(), good);
        }
        let (report, tests) = failures(0, 0);
        assert_eq!(evidence(&report, &tests), "");
    }

    #[test]
    fn of_many_failures_the_first_are_quoted() {
        let (report, tests) = failures(0, QUOTED + 3);
        let text = evidence(&report, &tests);
        assert!(text.contains("test10:") && !text.contains("test11:"), "{text}");
        assert!(text.ends_with("\n3 more have said something, see the console\n"), "{text}");
    }
}
