//! `ringmark restore`: a machine from an image, in the foreground.

use ringmark_image::Store;
use ringmark_machine::{Machine, RestoreOptions};

use super::run::{hypervisor, tracking};
use crate::args::RestoreArgs;
use crate::failure::{Failure, Result};
use crate::progress::Spinner;
use crate::store::{image_code, not_started, open_failure, resolve};
use crate::{console, host, machine_errors, paths};

/// Restores the machine and runs it until it ends.
pub(crate) fn run(args: &RestoreArgs, as_json: bool, quiet: bool) -> Result {
    host::tie_to_parent(args.machine.die_with_parent)?;
    let opened = Store::open(paths::store(&args.store)?);
    let store = opened.map_err(|error| not_started(open_failure(&error)))?;
    let id = resolve(&store, &args.image).map_err(not_started)?;
    let image = store.image(id).map_err(|error| not_started(Failure::new(image_code(&error), error)))?;
    let name = args.name.clone().unwrap_or_else(|| image.summary().vm.clone());
    let socket = paths::socket(&name)?;
    host::check_name(&socket)?;
    let options = RestoreOptions {
        name: Some(name),
        hypervisor: hypervisor(args.machine.hypervisor),
        tracking: tracking(&args.machine)?,
        audit: args.machine.audit,
    };
    let spinner = Spinner::new(quiet || as_json, format!("restoring {id}"));
    let restored = Machine::restore(&store, &image, options, console::output(as_json));
    spinner.finish();
    let machine = restored.map_err(|error| machine_errors::restore(&error))?;
    host::run(machine, socket, store, as_json, quiet)
}
