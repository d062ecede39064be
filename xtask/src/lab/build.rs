//! Builds the lab's program for the lab's architecture, static, so that an initrd of one file is enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::arch::Arch;
use super::toolchain::Toolchain;
use super::{directory, root, shell};

/// The package, and the program's name.
const PACKAGE: &str = "ringmark-lab";

/// The program, built by now.
pub(super) fn program(arch: Arch) -> Result<PathBuf> {
    let mut command = cargo(arch, "build")?;
    command.args(["--package", PACKAGE, "--bin", PACKAGE]);
    shell::run(&mut command).context("cannot build the lab's program")?;
    let program = target().join(arch.triple()).join("release").join(PACKAGE);
    ensure!(program.is_file(), "cargo left no {}", program.display());
    Ok(program)
}

/// The test programs of the packages that `arch` has tested, built by now, each with its name: the package's, and the
/// target's if that is another.
pub(super) fn tests(arch: Arch) -> Result<Vec<(String, PathBuf)>> {
    let mut programs = Vec::new();
    for package in arch.tested() {
        let mut command = cargo(arch, "test")?;
        command.args(["--no-run", "--message-format", "json-render-diagnostics", "--package", package]);
        command.args(["--lib", "--tests"]).stderr(Stdio::inherit());
        let messages =
            shell::output(&mut command).with_context(|| format!("cannot build {package}'s tests"))?;
        let built = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
        let found = programs.len();
        for artifact in built.filter(|artifact| artifact.profile.test) {
            if let Some(executable) = artifact.executable {
                let target = artifact.target.name.replace('_', "-");
                let name = if target == *package { target } else { format!("{package}-{target}") };
                programs.push((name, executable));
            }
        }
        ensure!(programs.len() > found, "{package} has no tests for the lab");
    }
    Ok(programs)
}

/// Puts `tests` into the directory `home`, and nothing else.
pub(super) fn collect(tests: &[(String, PathBuf)], home: &Path) -> Result<()> {
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("cannot empty {}", home.display()))?;
    }
    fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
    for (name, test) in tests {
        fs::copy(test, home.join(name)).with_context(|| format!("cannot copy {}", test.display()))?;
    }
    Ok(())
}

/// A message of cargo's about something that it has built.
#[derive(Debug, Deserialize)]
struct Artifact {
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

fn target() -> PathBuf {
    directory().join("build")
}

/// A command of cargo's that builds static programs for `arch`.
fn cargo(arch: Arch, name: &str) -> Result<Command> {
    let triple = arch.triple();
    let toolchain = Toolchain::find(arch)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args([name, "--quiet", "--release", "--locked", "--target", triple, "--target-dir"])
        .arg(target())
        .env("CARGO_ENCODED_RUSTFLAGS", toolchain.flags());
    if let Some(rustc) = toolchain.rustc() {
        command.env("RUSTC", rustc);
    }
    if !arch.is_host() {
        let variable = format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"));
        command.env(variable, arch.cross_linker());
    }
    Ok(command)
}
