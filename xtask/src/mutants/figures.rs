//! How many states and schedules were gone through.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::build::{self, Programs};
use super::catalogue::Program;
use super::run::{self, Ended};

/// One model or scenario.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) count: u64,
    /// What was found, for a model.
    pub(super) found: String,
}

#[derive(Debug)]
pub(super) struct Figures {
    pub(super) models: Vec<Figure>,
    pub(super) schedules: Vec<Figure>,
}

/// A million schedules take a minute on two idle processors.
const LIMIT: Duration = Duration::from_secs(1200);

/// Runs the models and the explorer.
pub(super) fn measure(programs: &Programs) -> anyhow::Result<Figures> {
    eprintln!("the models and the explorer");
    let models = build::models()?;
    let models = Command::new(&models)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} cannot be run", models.display()))?;
    if !models.status.success() {
        bail!("a model does not hold:\n{}", String::from_utf8_lossy(&models.stdout));
    }
    let explorer = programs.get(Program::Unit("ringmark-track"))?;
    let explored = run::run(explorer, &["explorer::", "--nocapture"], None, LIMIT)?;
    if explored.ended != Ended::Passed {
        bail!("the explorer did not pass ({:?}):\n{}", explored.ended, explored.output);
    }
    let models = lines(&String::from_utf8_lossy(&models.stdout), "MODEL ");
    let mut schedules = lines(&explored.output, "EXPLORED ");
    schedules.sort_by(|a, b| a.name.cmp(&b.name));
    if models.is_empty() || schedules.is_empty() {
        bail!("the models or the explorer said nothing");
    }
    Ok(Figures { models, schedules })
}

/// The lines `prefix name | count | found` of `output`.
fn lines(output: &str, prefix: &str) -> Vec<Figure> {
    let figure = |line: &str| {
        // The harness may have begun the line with the test's name.
        let (_, line) = line.split_once(prefix)?;
        let mut parts = line.split('|').map(str::trim);
        let (name, count, found) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Figure { name: name.into(), count: count.parse().ok()?, found: found.into() })
    };
    output.lines().filter_map(figure).collect()
}

#[test]
fn figures_are_read_wherever_the_line_begins() {
    let output = "test a ... EXPLORED two rings | 12 | 0.1 s\nnoise\nEXPLORED x | many | y\n";
    let figure = Figure { name: "two rings".into(), count: 12, found: "0.1 s".into() };
    assert_eq!(lines(output, "EXPLORED "), [figure]);
}
