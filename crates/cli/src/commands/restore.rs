//! `ringmark restore`: a machine from an image, in the foreground.

use ringmark_image::Store;
use ringmark_machine::{Machine, RestoreOptions};

use super::run::{hypervisor, tracking};
use crate::args::RestoreArgs;
use crate::failure::{Failure, Result};
use crate::progress::Spinner;
use crate::{console, host, machine_errors, paths};

/// Restores the machine and runs it until it ends.
pub(crate) fn run(args: &RestoreArgs, as_json: bool, quiet: bool) -> Result {
    let store = Store::open(paths::store(&args.store)?).map_err(|e| crate::store::open_failure(&e))?;
    let id = crate::store::resolve(&store, &args.image)?;
    let image = store.image(id).map_err(|error| {
        Failure::new(crate::store::image_code(&error), error).guest("there is none: it was not started")
    })?;
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
