//! Building every test program once, with the mutants in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::catalogue::Program;
use super::entries::ENTRIES;

/// The packages whose tests catch mutants. One feature switches the branches of all crates on.
const PACKAGES: &[&str] =
    &["ringmark-dirty", "ringmark-track", "ringmark-image", "ringmark-machine", "ringmark-migrate"];
/// Packages that are asked for only because of the features that they want of dependencies: with these they are the ones that
/// `cargo test --workspace` has built, and nobody builds them again.
const FEATURES: &[&str] = &["ringmark", "ringmark-control", "ringmark-model", "ringmark-object", "xtask"];

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
        tests.args(["test", "--no-run", "--locked", "--features", "ringmark-dirty/mutants", "--lib"]);
        for target in targets() {
            tests.args(["--test", target]);
        }
        for package in PACKAGES.iter().chain(FEATURES) {
            tests.args(["--package", package]);
        }
        programs.add(&mut tests, None)?;
        let mut models = Command::new(env!("CARGO"));
        models.args(["test", "--no-run", "--locked", "--target-dir", "target/loom"]);
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
        for Executable { package, target, path, .. } in executables(cargo)?.into_iter().filter(|e| e.is_test)
        {
            let folder = path.parent().map(Path::to_owned).unwrap_or_default();
            let is_unit = target.kind.iter().any(|kind| kind == "lib");
            let name = if is_unit { String::new() } else { target.name };
            self.0.insert(key.clone().unwrap_or((package, name)), Built { executable: path, folder });
        }
        Ok(())
    }
}

/// The program that checks the models of the protocol.
pub(super) fn models() -> anyhow::Result<PathBuf> {
    const NAME: &str = "ringmark-model";
    let mut cargo = Command::new(env!("CARGO"));
    // By the whole workspace, or its dependencies are built again with fewer features.
    cargo.args(["build", "--locked", "--workspace", "--bin", NAME]);
    let mut found = executables(&mut cargo)?.into_iter().filter(|e| !e.is_test && e.target.name == NAME);
    Ok(found.next().with_context(|| format!("cargo left no {NAME}"))?.path)
}

/// A program that cargo has built.
struct Executable {
    package: String,
    target: Target,
    path: PathBuf,
    is_test: bool,
}

/// What `cargo` builds.
fn executables(cargo: &mut Command) -> anyhow::Result<Vec<Executable>> {
    let output = cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    if !output.status.success() {
        bail!("what catches mutants does not build");
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Message>(line) else { continue };
        let Message {
            reason,
            package_id: Some(id),
            target: Some(target),
            profile: Some(profile),
            executable: Some(path),
        } = message
        else {
            continue;
        };
        if reason != "compiler-artifact" {
            continue;
        }
        let package = package_of(&id).with_context(|| format!("package {id} has no name"))?;
        found.push(Executable { package, target, path, is_test: profile.test });
    }
    Ok(found)
}

/// The integration tests that catch mutants.
fn targets() -> BTreeSet<&'static str> {
    let programs = ENTRIES.iter().map(|entry| entry.catcher.program);
    let target = |program| match program {
        Program::Integration(_, test) => Some(test),
        Program::Unit(_) | Program::Loom => None,
    };
    programs.filter_map(target).collect()
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
