//! The lab: mainline kernels where the machine has none.

mod apt;
mod arch;
mod boot;
mod build;
mod initrd;
mod kernel;
mod shell;
mod toolchain;
mod tools;
mod transcript;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringmark_conformance::Report;

pub(crate) use self::arch::Arch;
use self::transcript::{Tests, Transcript};

/// How long a boot and every case together may take.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// The longest silence of a console: longer than any case, its own limit included.
const SILENCE: Duration = Duration::from_secs(6 * 60);

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

/// Builds, boots, reads, and reports.
pub(crate) fn run(arch: Arch) -> Result<()> {
    let home = directory().join(arch.name());
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let lock = File::create(home.join("lock")).context("cannot create the lab's lock")?;
    ensure!(lock.try_lock().is_ok(), "another run of the {} lab is under way", arch.name());
    // A run that fails leaves no report of an earlier one behind.
    let report_path = report_path(arch);
    if report_path.exists() {
        fs::remove_file(&report_path).context("cannot remove the last report")?;
    }

    let start = Instant::now();
    let command = command(arch, &home)?;
    println!("prepared in {:.1} s", start.elapsed().as_secs_f64());

    let start = Instant::now();
    let console = home.join("console.log");
    let mut transcript = Transcript::default();
    let ended = boot::watch(command, LIMIT, SILENCE, &console, |line| transcript.take(line));
    let (report, tests) = ended.and_then(|()| transcript.finish(arch.target_name())).with_context(|| {
        format!("the {} lab failed; its console is in {}", arch.name(), console.display())
    })?;
    println!("ran for {:.1} s", start.elapsed().as_secs_f64());
    save(&report, &report_path)?;
    judge(&report, &tests).with_context(|| format!("the console is in {}", console.display()))
}

/// What to start: an emulator with the kernel, or the program alone where the machine itself will do.
fn command(arch: Arch, home: &Path) -> Result<Command> {
    let native = arch == Arch::Arm64 && arch.is_host() && Path::new("/dev/kvm").exists();
    if native {
        println!("this machine is one itself: no emulation");
        let tests = home.join("tests");
        let built = build::build(arch)?;
        build::collect(&built.tests, &tests)?;
        let mut command = Command::new(built.program);
        command.arg(tests);
        return Ok(command);
    }
    tools::require(&arch.tools())?;
    let kernel = kernel::fetch(arch, &home.join("kernel"))?;
    println!("kernel {}", kernel.release);
    let built = build::build(arch)?;
    let initrd = home.join("initrd");
    initrd::write(&initrd, &built.program, &kernel.modules, &built.tests)?;
    Ok(arch.emulator(&kernel.image, &initrd))
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
    ensure!(report.failed == 0, "{} of {} cases failed", report.failed, report.cases.len());
    ensure!(tests.failed.is_empty(), "tests failed: {}", tests.failed.join(", "));
    Ok(())
}
