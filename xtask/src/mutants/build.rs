//! Building every test program once, with the mutants in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::catalogue::Program;

/// The packages whose tests catch mutants. One feature switches the branches of all crates on.
const PACKAGES: &[&str] =
    &["ringmark-dirty", "ringmark-track", "ringmark-image", "ringmark-machine", "ringmark-migrate"];

/// A line of `cargo --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// A test program on disk, and the folder it is run in.
#[derive(Clone, Debug)]
pub(super) struct Built {
    pub(super) executable: PathBuf,
    pub(super) folder: PathBuf,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Programs(BTreeMap<Key, Built>);

/// Package and test target; the latter is empty for unit tests.
type Key = (String, String);

impl Programs {
    pub(super) fn build() -> anyhow::Result<Self> {
        eprintln!("building the tests with the mutants");
        let mut programs = Self(BTreeMap::new());
        let mut tests = Command::new(env!("CARGO"));
        tests.args([
            "test",
            "--no-run",
            "--locked",
            "--lib",
            "--tests",
            "--features",
            "ringmark-dirty/mutants",
        ]);
        for package in PACKAGES {
            tests.args(["--package", package]);
        }
        programs.add(&mut tests, None)?;
        let mut models = Command::new(env!("CARGO"));
        models.args(["test", "--no-run", "--locked", "--release", "--target-dir", "target/loom"]);
        models.args(["--package", "ringmark-dirty", "--test", "loom", "--features", "mutants"]);
        models.env("RUSTFLAGS", "--cfg loom");
        programs.add(&mut models, Some(("loom".into(), String::new())))?;
        Ok(programs)
    }

    pub(super) fn get(&self, program: Program) -> anyhow::Result<&Built> {
        let key: Key = match program {
            Program::Unit(package) => (package.into(), String::new()),
            Program::Integration(package, test) => (package.into(), test.into()),
            Program::Loom => ("loom".into(), String::new()),
        };
        self.0.get(&key).with_context(|| format!("there is no test program {key:?}"))
    }

    fn add(&mut self, cargo: &mut Command, key: Option<Key>) -> anyhow::Result<()> {
        let output = cargo
            .arg("--message-format=json-render-diagnostics")
            .stderr(Stdio::inherit())
            .output()
            .context("cargo cannot be run")?;
        if !output.status.success() {
            bail!("the tests do not build");
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(message) = serde_json::from_str::<Message>(line) else { continue };
            let Message { reason, package_id: Some(id), target: Some(target), profile, executable } = message
            else {
                continue;
            };
            let Some(executable) = executable.filter(|_| profile.is_some_and(|profile| profile.test)) else {
                continue;
            };
            if reason != "compiler-artifact" {
                continue;
            }
            let package = package_of(&id).with_context(|| format!("package {id} has no name"))?;
            let folder = executable.parent().map(Path::to_owned).unwrap_or_default();
            let is_unit = target.kind.iter().any(|kind| kind == "lib");
            let name = if is_unit { String::new() } else { target.name };
            self.0.insert(key.clone().unwrap_or((package, name)), Built { executable, folder });
        }
        Ok(())
    }
}

/// The name of a package of this workspace, from `path+file:///…/crates/dirty#ringmark-dirty@0.1.0`.
fn package_of(id: &str) -> Option<String> {
    let (_, name) = id.strip_prefix("path+file://")?.split_once('#')?;
    Some(name.split_once('@')?.0.to_owned())
}

#[test]
fn packages_are_read_from_their_identity() {
    let name = package_of("path+file:///src/ringmark/crates/dirty#ringmark-dirty@0.1.0");
    assert_eq!(name.as_deref(), Some("ringmark-dirty"));
    assert!(package_of("registry+https://github.com/rust-lang/crates.io-index#libc@0.2.1").is_none());
}
