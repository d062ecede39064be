//! The program `ringmark`.

mod args;
mod commands;
mod console;
mod failure;
mod forecast;
mod host;
mod link;
mod machine_errors;
mod output;
mod paths;
mod progress;
mod remote;
mod schedule;
mod service;
mod size;
mod store;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use signal_hook::consts::SIGXFSZ;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A file-size limit is to be an error of a write (EFBIG), which loses nothing, and not the end of a guest.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        eprintln!("ringmark: a file-size limit will end this process: {error}");
    }
    // Torture is warnings all the way, each of a fault that it has injected.
    let level = if matches!(cli.command, Command::Torture(_)) { "error" } else { "warn" };
    let filter = EnvFilter::try_from_env("RINGMARK_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let Cli { command, json, quiet } = cli;
    let result = match &command {
        Command::Demo(args) => commands::demo::run(args, json, quiet),
        Command::Run(args) => commands::run::run(args, json, quiet),
        Command::Checkpoint(args) => commands::checkpoint::run(args, json, quiet),
        Command::Restore(args) => commands::restore::run(args, json, quiet),
        Command::Predict(args) => commands::predict::run(args, json, quiet),
        Command::Migrate(args) => commands::migrate::run(args, json, quiet),
        Command::Receive(args) => commands::receive::run(args, json, quiet),
        Command::Images(args) => commands::images::run(args, json),
        Command::Verify(args) => commands::verify::run(args, json, quiet),
        Command::Diff(args) => commands::diff::run(args, json),
        Command::Flatten(args) => commands::flatten::run(args, json, quiet),
        Command::Prune(args) => commands::prune::run(args, json),
        Command::Rm(args) => commands::rm::run(args, json),
        Command::Export(args) => commands::export::run(args, json, quiet),
        Command::Import(args) => commands::import::run(args, json, quiet),
        Command::Doctor => return commands::doctor::run(json, quiet),
        Command::Conformance(args) => commands::conformance::run(args, json),
        Command::Torture(args) => commands::torture::run(args, json, quiet),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
