//! `ringmark torture`: random guests under every known fault, until the time is over or a page is lost.

use std::hash::{BuildHasher, Hasher, RandomState};

use ringmark_kvm::System;
use ringmark_torture::{Hypervisor, Options, Report};
use serde::Serialize;

use crate::args::{self, TortureArgs};
use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::progress::Spinner;

/// The report as a document.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    report: &'a Report,
}

/// Ends with 12 at the first page that is lost; the message has the seed, the step, and how to repeat it.
pub(crate) fn run(args: &TortureArgs, as_json: bool, quiet: bool) -> Result {
    let options = Options {
        seed: args.seed.unwrap_or_else(any_seed),
        time: args.minutes.0,
        hypervisor: hypervisor(args.hypervisor)?,
        iteration: args.iteration,
    };
    let silent = as_json || quiet;
    if !silent {
        eprintln!("torture: seed {} on {}", options.seed, options.hypervisor);
    }
    let spinner = Spinner::new(silent, "begins");
    let ended = ringmark_torture::run(&options, &mut |report| spinner.say(line(report)));
    spinner.finish();
    let report = ended.map_err(|failure| {
        Failure::new(Code::CheckFailed, &failure)
            .advice(format!("to repeat the iteration, though not its timing: `{}`", failure.replay()))
    })?;
    if as_json {
        output::json(&Document { schema: output::SCHEMA, report: &report });
        return Ok(());
    }
    let rows = report.faults.iter().map(|(kind, times)| vec![(*kind).to_owned(), times.to_string()]);
    output::line(output::table(&["fault", "times"], &[1], rows));
    output::line(line(&report));
    Ok(())
}

fn line(report: &Report) -> String {
    let faults: u64 = report.faults.values().sum();
    format!(
        "{} iterations in {:.1} s: {} pages verified, {faults} faults, {} escapes",
        report.iterations,
        std::time::Duration::from_millis(report.elapsed_ms).as_secs_f64(),
        report.pages_verified,
        report.escapes
    )
}

/// Small enough for every reader of JSON.
fn any_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

fn hypervisor(wish: args::Hypervisor) -> Result<Hypervisor> {
    match (wish, System::open()) {
        (args::Hypervisor::Engine, _) | (args::Hypervisor::Auto, Err(_)) => Ok(Hypervisor::Engine),
        (_, Ok(_)) => Ok(Hypervisor::Kvm),
        (args::Hypervisor::Kvm, Err(error)) => Err(Failure::new(Code::NoHypervisor, error)
            .advice("`--hypervisor engine` needs no /dev/kvm; `ringmark doctor` says more")),
    }
}
