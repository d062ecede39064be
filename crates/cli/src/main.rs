//! The program `ringmark`.

mod args;
mod commands;
mod console;
mod failure;
mod host;
mod machine_errors;
mod output;
mod paths;
mod progress;
mod remote;
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
    let filter = EnvFilter::try_from_env("RINGMARK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let Cli { command, json, quiet } = cli;
    let result = match &command {
        Command::Demo(args) => commands::demo::run(args, json, quiet),
        Command::Run(args) => commands::run::run(args, json, quiet),
        Command::Checkpoint(args) => commands::checkpoint::run(args, json, quiet),
        Command::Restore(args) => commands::restore::run(args, json, quiet),
        Command::Images(args) => commands::images::run(args, json),
        Command::Verify(args) => commands::verify::run(args, json, quiet),
        Command::Doctor => return commands::doctor::run(json),
        Command::Conformance(args) => commands::conformance::run(args, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
