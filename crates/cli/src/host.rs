//! A machine in the foreground: its socket, its signals, its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use ringmark_control::{BindError, Server, Service};
use ringmark_image::Store;
use ringmark_machine::{End, Machine, RunError};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::ScheduleArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::machine_errors;
use crate::output;
use crate::schedule::Schedule;
use crate::service::MachineService;

/// Why the foreground came to an end.
pub(crate) enum Ending {
    Guest(std::result::Result<End, RunError>),
    Signal(i32),
}

/// Where a machine lives.
pub(crate) struct Place<'a> {
    /// Its control socket.
    pub(crate) socket: PathBuf,
    /// Where its images go.
    pub(crate) store: Store,
    /// When they are taken by themselves.
    pub(crate) schedule: &'a ScheduleArgs,
    /// Whether the standard input is its keyboard.
    pub(crate) keyboard: bool,
}

/// Starts `machine`, serves its socket until it ends, and says how it ended.
///
/// An interrupt or a termination ends the machine; its images stay.
pub(crate) fn run(machine: Machine, place: Place<'_>, as_json: bool, quiet: bool) -> Result {
    let Place { socket, store, schedule, keyboard } = place;
    let machine = Arc::new(machine);
    let service = Arc::new(MachineService::new(Arc::clone(&machine), store));
    let shared: Arc<dyn Service> = Arc::clone(&service) as _;
    let server = Server::bind(socket, shared).map_err(|error| bind_failure(&error))?;
    let (endings, ended) = channel();
    let interrupted = endings.clone();
    watch_signals(move |number| {
        // Nobody waits any more: the machine has ended by itself.
        let _ = interrupted.send(Ending::Signal(number));
    })
    .or_fail(Code::Failed)?;
    let stay = Stay { machine, service, server, schedule, keyboard, endings, ended };
    stay.run(true, as_json, quiet)
}

/// A machine that is served.
pub(crate) struct Stay<'a> {
    pub(crate) machine: Arc<Machine>,
    pub(crate) service: Arc<MachineService>,
    pub(crate) server: Server,
    pub(crate) schedule: &'a ScheduleArgs,
    /// Whether the standard input is its keyboard.
    pub(crate) keyboard: bool,
    /// Who ends the stay from outside.
    pub(crate) endings: Sender<Ending>,
    pub(crate) ended: Receiver<Ending>,
}

impl Stay<'_> {
    /// Lets the machine run until it ends, if `resume`, and says how it ended.
    pub(crate) fn run(self, resume: bool, as_json: bool, quiet: bool) -> Result {
        let Stay { machine, service, server, schedule, keyboard, endings, ended } = self;
        if !quiet {
            announce(&machine, &server);
        }
        watch_machine(&machine, endings).or_fail(Code::Failed)?;
        if keyboard {
            crate::console::forward_input(&machine);
        }
        if resume
            && let Err(error) = machine.resume()
            && machine.outcome().is_none()
        {
            return Err(Failure::new(Code::Failed, error));
        }
        let schedule = Schedule::start(schedule, &service).or_fail(Code::Failed)?;
        let ending = wait(&machine, &ended);
        drop(schedule);
        drop(server);
        say_how_it_ended(&machine, ending, as_json, quiet)
    }
}

fn say_how_it_ended(machine: &Machine, ending: Ending, as_json: bool, quiet: bool) -> Result {
    for event in machine.take_events() {
        eprintln!("ringmark: {event}");
    }
    let (end, result) = conclude(ending);
    if as_json {
        output::json(
            &serde_json::json!({ "schema": output::SCHEMA, "name": machine.facts().name, "end": end }),
        );
    }
    match result {
        Ok(said) if !quiet => eprintln!("ringmark: {said}"),
        Ok(_) => {}
        Err(failure) => return Err(failure.documented()),
    }
    Ok(())
}

/// A word for programs, and what people are told.
fn conclude(ending: Ending) -> (&'static str, Result<String>) {
    match ending {
        Ending::Guest(Ok(End::Shutdown)) => ("shutdown", Ok("the guest shut down".into())),
        Ending::Guest(Ok(End::Stopped)) => ("stopped", Ok("the machine was stopped".into())),
        Ending::Guest(Ok(End::Left)) => ("left", Ok("the guest has left: it runs on the other side".into())),
        Ending::Guest(Ok(End::Exit(0))) => ("exit", Ok("the guest ended with code 0".into())),
        Ending::Guest(Ok(End::Exit(code))) => {
            ("exit", Err(Failure::new(Code::Failed, format!("the guest ended with code {code}"))))
        }
        Ending::Guest(Ok(End::TripleFault)) => {
            let failure = Failure::new(Code::Failed, "the guest fell into a triple fault");
            ("triple-fault", Err(failure.guest("ended").advice("restore its newest image")))
        }
        Ending::Guest(Err(error)) => ("failed", Err(machine_errors::run(&error))),
        Ending::Signal(number) => {
            let name = signal_hook::low_level::signal_name(number).unwrap_or("signal");
            ("signal", Ok(format!("{name}: the machine was stopped; its images are intact")))
        }
    }
}

/// Has the kernel kill this process when its parent ends, if that is asked for.
pub(crate) fn tie_to_parent(asked: bool) -> Result {
    if asked {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .or_fail(Code::Failed)?;
    }
    Ok(())
}

/// Looks whether the name is free before a machine is built, so that a taken one costs nothing and disturbs nobody.
pub(crate) fn check_name(socket: &std::path::Path) -> Result {
    match ringmark_control::Client::connect(socket).map(|client| client.status()) {
        Ok(Ok(_)) => Err(bind_failure(&BindError::Taken(socket.to_owned()))),
        _ => Ok(()),
    }
}

pub(crate) fn bind_failure(error: &BindError) -> Failure {
    if matches!(error, BindError::Taken(_)) {
        return Failure::new(Code::NameTaken, error)
            .guest("this machine was not started; the one that holds the name runs on")
            .advice("choose another --name");
    }
    Failure::new(Code::Failed, error)
        .guest("there is none: it was not started")
        .advice("set XDG_RUNTIME_DIR to a folder of your own")
}

fn announce(machine: &Machine, server: &Server) {
    let facts = machine.facts();
    eprintln!(
        "ringmark: {} runs on {} ({}), {} vCPUs, {}",
        facts.name,
        facts.hypervisor.name(),
        facts.hypervisor_why,
        facts.vcpus,
        indicatif::BinaryBytes(facts.memory),
    );
    eprintln!("ringmark: writes are tracked by {}", facts.tracking);
    eprintln!("ringmark: control socket {}", server.path().display());
}

fn wait(machine: &Machine, ended: &Receiver<Ending>) -> Ending {
    let ending = ended.recv().unwrap_or(Ending::Signal(SIGTERM));
    if matches!(ending, Ending::Signal(_)) {
        machine.end();
    }
    ending
}

/// Has `heard` called for every interrupt and termination.
pub(crate) fn watch_signals(mut heard: impl FnMut(i32) + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || signals.forever().for_each(&mut heard))?;
    Ok(())
}

fn watch_machine(machine: &Arc<Machine>, endings: Sender<Ending>) -> std::io::Result<()> {
    let machine = Arc::clone(machine);
    thread::Builder::new().name("guest-end".into()).spawn(move || {
        // As above.
        let _ = endings.send(Ending::Guest(machine.wait()));
    })?;
    Ok(())
}
