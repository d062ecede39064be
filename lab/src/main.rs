//! The first program of a lab kernel: brings the machine up, asks every case, runs every test program, prints the lines,
//! and ends the machine.
//!
//! Started by anything but a kernel (on a host that has the right KVM itself) it only asks, runs and prints; its argument
//! is then the directory of the test programs.

mod choice;
mod machine;
mod programs;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use choice::Choice;
use ringmark_lab::Line;
use suite::Suite;

fn main() -> ExitCode {
    let first = rustix::process::getpid().as_raw_nonzero().get() == 1;
    let asked = if first { machine::bring_up().and_then(|()| run()) } else { run() };
    if let Err(error) = &asked {
        println!("{}", Line::Broken { why: format!("{error:#}") });
    }
    if first {
        machine::end();
    }
    if asked.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Asks the suite, then runs the programs.
fn run() -> Result<()> {
    let choice = Choice::from_environment()?;
    let directory =
        std::env::args_os().nth(1).map_or_else(|| PathBuf::from(machine::PROGRAMS), PathBuf::from);
    let programs = programs::find(&directory, &choice)?;
    let suite = Suite::open(&choice)?;
    if let Some(only) = &choice.only {
        ensure!(suite.cases() + programs.len() > 0, "{only} is in the name of no case and no test");
    }
    let (cases, runs) = (choice.repeat * suite.cases(), choice.repeat * programs.len());
    println!("{}", Line::Kernel { kernel: suite.kernel(), cases, programs: runs });
    for _ in 0..choice.repeat {
        suite.ask();
        for program in &programs {
            programs::run(program)?;
        }
    }
    println!("{}", Line::End { cases, programs: runs });
    Ok(())
}
