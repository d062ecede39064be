//! `ringmark restore`: a machine from an image, in the foreground, or several.

mod clones;

use std::os::fd::AsFd;

use ringmark_image::{Image, ImageId, Store};
use ringmark_machine::{Loading, Machine, RestoreOptions, Share};

use super::run::{check_with, hypervisor, tracking};
use crate::args::RestoreArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::progress::Spinner;
use crate::store::{image_code, not_started, open, resolve};
use crate::{console, host, machine_errors, paths};

/// Restores the machine, or as many as are asked for, and runs until it ends.
pub(crate) fn run(args: &RestoreArgs, as_json: bool, quiet: bool) -> Result {
    host::tie_to_parent(args.machine.die_with_parent || args.clone.is_some())?;
    let store = open(&args.store).map_err(not_started)?;
    match (args.clones, args.clone) {
        (Some(_), Some(number)) => one_of_several(args, number, &store, as_json, quiet),
        (Some(count), None) => clones::run(args, count, &store, as_json, quiet),
        (None, _) => alone(args, &store, as_json, quiet),
    }
}

fn alone(args: &RestoreArgs, store: &Store, as_json: bool, quiet: bool) -> Result {
    let image = machine_image(store, resolve(store, &args.image).map_err(not_started)?)?;
    let name = name(args, &image, None);
    host::check_name(&paths::socket(&name)?)?;
    let spinner = Spinner::new(quiet || as_json, format!("restoring {}", image.id()));
    let restored = Machine::restore(store, &image, options(args, name)?, console::output(as_json));
    spinner.finish();
    let machine = restored.map_err(|error| machine_errors::restore(&error))?;
    foreground(args, machine, store, as_json, quiet)
}

/// A clone: of the image that its memory is of, whatever has become the newest meanwhile.
fn one_of_several(args: &RestoreArgs, number: u32, store: &Store, as_json: bool, quiet: bool) -> Result {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().or_fail(Code::Failed)?;
    let share = Share::receive(socket).map_err(|error| {
        not_started(Failure::new(Code::Failed, format!("the memory to be shared cannot be had: {error}")))
    })?;
    let image = machine_image(store, share.image())?;
    let options = options(args, name(args, &image, Some(number)))?;
    let restored = Machine::restore_shared(store, &image, share, options, console::output(as_json));
    let machine = restored.map_err(|error| machine_errors::restore(&error))?;
    foreground(args, machine, store, as_json, quiet)
}

fn foreground(args: &RestoreArgs, machine: Machine, store: &Store, as_json: bool, quiet: bool) -> Result {
    check_with(&machine, &args.machine)?;
    let store = store.clone().durability(args.schedule.durability.into());
    let socket = paths::socket(&machine.facts().name)?;
    let place = host::Place { socket, store, schedule: &args.schedule, keyboard: args.clone.is_none() };
    host::run(machine, place, as_json, quiet)
}

/// The image `id`, which has to be a machine's.
fn machine_image(store: &Store, id: ImageId) -> Result<Image> {
    let image = store.image(id).map_err(|error| not_started(Failure::new(image_code(&error), error)))?;
    if image.state_names().next().is_some() {
        return Ok(image);
    }
    let what =
        format!("image {id} holds memory alone: it was imported, and there is no machine in it to restore");
    Err(not_started(
        Failure::new(Code::NotRestorable, what)
            .advice("compare it with `ringmark diff`, or write it to a file with `ringmark export`"),
    ))
}

/// The name of the machine, or of one of several.
fn name(args: &RestoreArgs, image: &Image, number: Option<u32>) -> String {
    let name = args.name.clone().unwrap_or_else(|| image.summary().vm.clone());
    number.map_or_else(|| name.clone(), |number| format!("{name}-{number}"))
}

fn loading(args: &RestoreArgs) -> Loading {
    if args.lazy { Loading::Lazy } else { Loading::Eager }
}

fn options(args: &RestoreArgs, name: String) -> Result<RestoreOptions> {
    Ok(RestoreOptions {
        name: Some(name),
        hypervisor: hypervisor(args.machine.hypervisor),
        tracking: tracking(&args.machine)?,
        audit: args.machine.audit,
        loading: loading(args),
    })
}
