//! `ringmark restore`: a machine from an image, in the foreground.

use ringmark_machine::{Loading, Machine, RestoreOptions};

use super::run::{check_with, hypervisor, tracking};
use crate::args::RestoreArgs;
use crate::failure::{Code, Failure, Result};
use crate::progress::Spinner;
use crate::store::{image_code, not_started, open, resolve};
use crate::{console, host, machine_errors, paths};

/// Restores the machine and runs it until it ends.
pub(crate) fn run(args: &RestoreArgs, as_json: bool, quiet: bool) -> Result {
    host::tie_to_parent(args.machine.die_with_parent)?;
    let store = open(&args.store).map_err(not_started)?;
    let id = resolve(&store, &args.image).map_err(not_started)?;
    let image = store.image(id).map_err(|error| not_started(Failure::new(image_code(&error), error)))?;
    if image.state_names().next().is_none() {
        return Err(not_started(
            Failure::new(
                Code::NotRestorable,
                format!(
                    "image {id} holds memory alone: it was imported, and there is no machine in it to restore"
                ),
            )
            .advice("compare it with `ringmark diff`, or write it to a file with `ringmark export`"),
        ));
    }
    let name = args.name.clone().unwrap_or_else(|| image.summary().vm.clone());
    let socket = paths::socket(&name)?;
    host::check_name(&socket)?;
    let options = RestoreOptions {
        name: Some(name),
        hypervisor: hypervisor(args.machine.hypervisor),
        tracking: tracking(&args.machine)?,
        audit: args.machine.audit,
        loading: if args.lazy { Loading::Lazy } else { Loading::Eager },
    };
    let spinner = Spinner::new(quiet || as_json, format!("restoring {id}"));
    let restored = Machine::restore(&store, &image, options, console::output(as_json));
    spinner.finish();
    let machine = restored.map_err(|error| machine_errors::restore(&error))?;
    check_with(&machine, &args.machine)?;
    let store = store.durability(args.schedule.durability.into());
    let place = host::Place { socket, store, schedule: &args.schedule };
    host::run(machine, place, as_json, quiet)
}
