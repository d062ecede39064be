//! `ringmark receive`: a machine that another process sends, in the foreground once it has arrived.

mod door;
mod lobby;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmark_machine::{ArrivalOptions, Arrivals};
use ringmark_migrate::receive::{Arrived, ReceiveError, ReceiveOptions, ReceiveProgress, receive};
use ringmark_migrate::{Address, Listener};

use super::run::{check_with, hypervisor, tracking};
use crate::args::ReceiveArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::host::{self, Stay};
use crate::link::{self, PATIENCE};
use crate::service::MachineService;
use crate::store::{create_or_open, image};
use crate::{console, paths};
use door::{AtHome, Door};
use lobby::{Lobby, Phase};

const NOTHING_CAME: &str = "none has arrived here; one that was on its way runs on at its source";

/// Waits for a machine and runs it until it ends.
pub(crate) fn run(args: &ReceiveArgs, as_json: bool, quiet: bool) -> Result {
    host::tie_to_parent(args.machine.die_with_parent)?;
    if let Some(name) = &args.name {
        host::check_name(&paths::socket(name)?)?;
    }
    let store = create_or_open(&args.store).map_err(nothing_came)?;
    let seed = args.seed.as_deref().map(|name| image(&store, name)).transpose().map_err(nothing_came)?;
    let options = ArrivalOptions {
        name: args.name.clone(),
        hypervisor: hypervisor(args.machine.hypervisor),
        tracking: tracking(&args.machine)?,
        audit: args.machine.audit,
        most_memory: args.max_memory.map(|bytes| bytes.0),
        seed,
    };
    let listener = Listener::bind(args.address.clone(), link::tls(&args.link)?, args.link.insecure, PATIENCE)
        .map_err(|error| nothing_came(Failure::new(Code::Usage, error)))?;
    let lobby = Arc::new(Lobby::new(store.location()));
    let stop = Arc::new(AtomicBool::new(false));
    leave_on_signal(&lobby, &stop, listener.address().clone()).or_fail(Code::Failed)?;
    if !quiet {
        eprintln!("ringmark: waiting for a machine at {}", listener.address());
    }
    let mut door = Door::new(Arrivals::new(options, || console::output(as_json)), Arc::clone(&lobby));
    let Arrived { machine: AtHome { machine, server }, answering, .. } = receive(
        listener,
        &mut door,
        &ReceiveOptions { keep: args.keep_arrived, ..ReceiveOptions::default() },
        &stop,
        &mut || lobby.decision(),
        &mut |at| watch(&lobby, at, quiet),
    )
    .map_err(|error| failure(&error))?;

    let machine = Arc::new(machine);
    let store = store.durability(args.schedule.durability.into());
    let service = Arc::new(MachineService::new(Arc::clone(&machine), store));
    let (endings, ended) = channel();
    lobby.arrived(Arc::clone(&service), endings.clone());
    if let Err(failure) = check_with(&machine, &args.machine) {
        // The guest exists here and nowhere else.
        eprintln!("ringmark: {}; the guest runs on without --check-with", failure.message);
    }
    let stay = Stay { machine, service, server, schedule: &args.schedule, keyboard: true, endings, ended };
    // It runs already, or its operator had paused it where it was.
    let result = stay.run(false, as_json, quiet);
    drop(answering);
    result
}

fn watch(lobby: &Lobby, at: ReceiveProgress<'_>, quiet: bool) {
    match at {
        ReceiveProgress::Accepted(offer) => {
            // Also one that goes on, and so does not pass the door again.
            lobby.enter(Phase::Receiving);
            if !quiet {
                let again = if offer.resume.is_some() { " again" } else { "" };
                eprintln!("ringmark: {} is arriving{again}, with {} vCPUs", offer.name, offer.vcpus);
            }
        }
        ReceiveProgress::TurnedAway(why) => {
            lobby.enter(Phase::Waiting);
            eprintln!("ringmark: {why}; waiting for the next");
        }
        // Before the source is told: from here on this process may be the guest's only one.
        ReceiveProgress::Prepared => lobby.enter(Phase::Prepared),
        ReceiveProgress::Undecided(session) => {
            lobby.enter(Phase::Undecided);
            let name = lobby.name();
            eprintln!(
                "ringmark: the source was lost when everything had come (session {session}): only it knows whether the guest is to \
                 run here\n  guest: stands still here, and perhaps there; the source is waited for\n  to do: look whether it runs \
                 there. If it does, `ringmark migrate {name} --decide discard`; if it never will, \
                 `ringmark migrate {name} --decide run`"
            );
        }
    }
}

/// What an interrupt means depends on how far the machine has come.
fn leave_on_signal(lobby: &Arc<Lobby>, stop: &Arc<AtomicBool>, address: Address) -> std::io::Result<()> {
    let (lobby, stop) = (Arc::clone(lobby), Arc::clone(stop));
    host::watch_signals(move |number| lobby.interrupted(number, &stop, &address))
}

fn nothing_came(failure: Failure) -> Failure {
    failure.guest(NOTHING_CAME)
}

fn failure(error: &ReceiveError) -> Failure {
    match error {
        ReceiveError::Stopped => nothing_came(Failure::new(Code::Cancelled, error)),
        ReceiveError::Run(_) => {
            Failure::new(Code::Failed, error).guest("does not run, here or at its source")
        }
        _ => nothing_came(Failure::new(Code::Failed, error)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
