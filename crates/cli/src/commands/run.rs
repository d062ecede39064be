//! `ringmark run`: a machine in the foreground.

use std::fs;
use std::path::Path;

use ringmark_guest::Pattern;
use ringmark_machine::{Boot, CheckWith, GuestSpec, HypervisorWish, Machine, MachineConfig};
use ringmark_track::Wish;

use crate::args::{self, Hypervisor, MachineArgs, RunArgs, Tracking};
use crate::failure::{Code, Failure, Result};
use crate::store::{create_or_open, not_started};
use crate::{console, host, machine_errors, paths};

/// Builds the machine and runs it until it ends.
pub(crate) fn run(args: &RunArgs, as_json: bool, quiet: bool) -> Result {
    host::tie_to_parent(args.machine.die_with_parent)?;
    let socket = paths::socket(&args.name)?;
    host::check_name(&socket)?;
    let config = MachineConfig {
        name: args.name.clone(),
        memory: args.memory.0,
        vcpus: args.vcpus,
        its: 1,
        hypervisor: hypervisor(args.machine.hypervisor),
        tracking: tracking(&args.machine)?,
        boot: boot(args)?,
        audit: args.machine.audit,
    };
    let store = create_or_open(&args.store).map_err(not_started)?;
    let machine =
        Machine::create(config, console::output(as_json)).map_err(|e| machine_errors::create(&e))?;
    check_with(&machine, &args.machine)?;
    let store = store.durability(args.schedule.durability.into());
    let place = host::Place { socket, store, schedule: &args.schedule, keyboard: true };
    host::run(machine, place, as_json, quiet)
}

fn boot(args: &RunArgs) -> Result<Boot> {
    if let Some(path) = &args.kernel {
        let image = read_kernel(path, args.memory.0).map_err(|what| {
            Failure::new(Code::Kernel, format!("the kernel file {} cannot be read: {what}", path.display()))
                .guest("there is none: it was not started")
        })?;
        return Ok(Boot::Kernel { image, command_line: args.cmdline.clone() });
    }
    let pattern = args.guest.ok_or_else(|| {
        Failure::new(Code::Usage, "there is nothing to run")
            .advice("give --kernel FILE, or --guest sequential for a built-in guest")
    })?;
    let hot = args.hot.map_or(args.memory.0 / 4, |hot| hot.0);
    Ok(Boot::Guest(GuestSpec {
        pattern: pattern_of(pattern),
        hot,
        pace: 0,
        seed: u64::from(std::process::id()),
    }))
}

/// A kernel is a regular file that fits into the guest's memory; anything else could fill ours.
fn read_kernel(path: &Path, memory: u64) -> std::result::Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    if metadata.len() > memory {
        return Err("it is larger than the guest's memory; give more --memory".into());
    }
    fs::read(path).map_err(|e| e.to_string())
}

fn pattern_of(pattern: args::Pattern) -> Pattern {
    match pattern {
        args::Pattern::Sequential => Pattern::Sequential,
        args::Pattern::Uniform => Pattern::Uniform,
        args::Pattern::Zipf => Pattern::Zipf,
        args::Pattern::Bursty => Pattern::Bursty { burst: 256, idle: 65_536 },
        args::Pattern::Rewrite => Pattern::Rewrite,
    }
}

/// Holds the tracking against a second look, if that is asked for.
pub(crate) fn check_with(machine: &Machine, args: &MachineArgs) -> Result {
    let with = match args.check_with {
        None => return Ok(()),
        Some(args::CheckWith::Uffd) => CheckWith::Uffd,
        Some(args::CheckWith::Hash) => CheckWith::Hash,
    };
    machine.check_with(with).map_err(|error| not_started(Failure::new(Code::Tracking, error)))
}

/// What the library calls the choice of hypervisor.
pub(crate) fn hypervisor(choice: Hypervisor) -> HypervisorWish {
    match choice {
        Hypervisor::Auto => HypervisorWish::Auto,
        Hypervisor::Kvm => HypervisorWish::Kvm,
        Hypervisor::Engine => HypervisorWish::Engine,
    }
}

/// What the library calls the choice of tracking.
pub(crate) fn tracking(args: &MachineArgs) -> Result<Wish> {
    match (args.tracking, args.ring_size) {
        (Tracking::Auto, None) => Ok(Wish::Auto),
        (Tracking::Bitmap, None) => Ok(Wish::Bitmap),
        (Tracking::Ring | Tracking::Auto, entries) => Ok(Wish::Ring { entries }),
        (Tracking::Bitmap, Some(_)) => {
            Err(Failure::new(Code::Usage, "--ring-size says nothing about --tracking bitmap"))
        }
    }
}
