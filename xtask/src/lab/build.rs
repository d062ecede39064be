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

/// What runs in the lab.
#[derive(Debug)]
pub(super) struct Built {
    /// The program that a lab kernel starts first.
    pub(super) program: PathBuf,
    /// The test programs, each with its name: the package's, and the target's if that is another.
    pub(super) tests: Vec<(String, PathBuf)>,
}

/// Builds the program and the tests that `arch` has tested, all at once: what they share is then built once.
pub(super) fn build(arch: Arch) -> Result<Built> {
    let mut command = cargo(arch)?;
    command.args(["--package", PACKAGE, "--bin", PACKAGE, "--tests"]);
    for tested in arch.tested() {
        command.args(["--package", tested.package]);
        for feature in tested.features {
            command.arg("--features").arg(format!("{}/{feature}", tested.package));
        }
    }
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let messages = shell::output(&mut command).context("cannot build what runs in the lab")?;
    let artifacts: Vec<Artifact> =
        messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = artifacts.iter().find(|artifact| !artifact.profile.test && artifact.is_of(PACKAGE));
    let program = program.and_then(|artifact| artifact.executable.clone());
    let program = program.with_context(|| format!("cargo left no {PACKAGE}"))?;
    let mut tests = Vec::new();
    for tested in arch.tested() {
        let found = tests.len();
        let built =
            artifacts.iter().filter(|artifact| artifact.profile.test && artifact.is_of(tested.package));
        for artifact in built.filter(|artifact| tested.wants(&artifact.target.name)) {
            if let Some(executable) = &artifact.executable {
                tests.push((artifact.test_name(tested.package), executable.clone()));
            }
        }
        ensure!(tests.len() > found, "{} has no tests for the lab", tested.package);
    }
    Ok(Built { program, tests })
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
    package_id: String,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

impl Artifact {
    /// Whether it is of `package`, whose name stands between source and version.
    fn is_of(&self, package: &str) -> bool {
        self.executable.is_some() && self.package_id.contains(&format!("#{package}@"))
    }

    fn test_name(&self, package: &str) -> String {
        let target = self.target.name.replace('_', "-");
        if target == package { target } else { format!("{package}-{target}") }
    }
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

/// A command of cargo's that builds static programs for `arch`: what runs there mostly waits for an emulated kernel, so
/// little is optimised.
fn cargo(arch: Arch) -> Result<Command> {
    let triple = arch.triple();
    let toolchain = Toolchain::find(arch)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["build", "--quiet", "--release", "--locked", "--target", triple, "--target-dir"])
        .arg(target())
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_named_by_its_package_and_target() {
        let message = |package: &str, target: &str, test: bool| {
            let json = format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///a/{package}#{package}@0.1.0",
                "target":{{"name":"{target}"}},"profile":{{"test":{test}}},"executable":"/b/{target}"}}"#
            );
            serde_json::from_str::<Artifact>(&json).expect("a message")
        };
        assert_eq!(message("ringmark-kvm", "ring", true).test_name("ringmark-kvm"), "ringmark-kvm-ring");
        assert_eq!(message("ringmark-kvm", "ringmark_kvm", true).test_name("ringmark-kvm"), "ringmark-kvm");
        assert!(message("ringmark-lab", "ringmark-lab", false).is_of(PACKAGE));
        assert!(!message("ringmark-lab", "ringmark-lab", false).is_of("ringmark"));
    }
}
