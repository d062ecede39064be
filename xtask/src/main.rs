//! Tasks of this repository that cargo alone does not do: `cargo xtask`.

mod lab;
mod matrix;
mod mutants;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boots mainline kernels with KVM under emulation and holds them to every case of the conformance suite.
    ///
    /// What is missing is installed with apt, which needs root. The kernel is Debian's newest cloud kernel; it, the
    /// programs, and the console's last output stay under target/lab. On an arm64 machine with /dev/kvm, `arm64` asks
    /// that machine's own kernel.
    Lab(lab::Options),
    /// Puts known mistakes back, one at a time, expects a named test to notice each, and writes docs/lossless.md.
    Mutants(mutants::Options),
    /// Writes docs/conformance.md: the engine, this host's /dev/kvm, and the last result of each lab.
    ConformanceMatrix,
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Lab(options) => lab::run(&options),
        Task::Mutants(options) => mutants::run(&options),
        Task::ConformanceMatrix => matrix::write(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
