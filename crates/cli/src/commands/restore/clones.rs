//! `ringmark restore --clones`: one memory, and a process of this program for each machine that shares it.
//!
//! A process each, so that whatever ends one, its guest, a fault, the kernel for want of memory, ends none of the others;
//! and each is what a machine restored alone is, to every other command. This process loads the memory, is the only one
//! that can change what they share, answers them while it arrives, and waits for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use ringmark_image::Store;
use ringmark_machine::{RunError, SharedMemory};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{loading, machine_image, name};
use crate::args::RestoreArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::progress::Spinner;
use crate::store::{not_started, resolve};
use crate::{host, machine_errors, output, paths};

/// Loads the memory, starts the machines, and waits for all of them.
pub(super) fn run(args: &RestoreArgs, count: u32, store: &Store, as_json: bool, quiet: bool) -> Result {
    let image = machine_image(store, resolve(store, &args.image).map_err(not_started)?)?;
    let names: Vec<String> = (1..=count).map(|number| name(args, &image, Some(number))).collect();
    for name in &names {
        host::check_name(&paths::socket(name)?)?;
    }
    let spinner = Spinner::new(quiet || as_json, format!("loading {}", image.id()));
    let shared = SharedMemory::load(&image, loading(args));
    spinner.finish();
    let shared = shared.map_err(|error| machine_errors::restore(&error))?;
    let family = Family::default();
    family.heed_signals().or_fail(Code::Failed)?;
    let mut clones = Vec::new();
    for (number, name) in (1..).zip(&names) {
        match Process::start(number, name, &shared, as_json) {
            Ok(clone) => {
                family.add(&clone);
                clones.push(clone);
            }
            Err(error) => {
                family.tell(Signal::TERM);
                clones.into_iter().for_each(|clone| drop(clone.wait()));
                return Err(not_started(Failure::new(
                    Code::Failed,
                    format!("{name} was not started: {error}"),
                )));
            }
        }
    }
    if !quiet && let (Some(first), Some(last)) = (names.first(), names.last()) {
        eprintln!("ringmark: {count} clones of image {} share its memory: {first} to {last}", image.id());
    }
    let ended: Vec<Ended> = clones.into_iter().map(Process::wait).collect();
    let failure = failure_of(&ended, &shared, family.was_told());
    if as_json {
        let clones: Vec<Value> = ended.iter().map(Ended::document).collect();
        output::json(&json!({ "schema": output::SCHEMA, "image": image.id().to_hex(), "clones": clones }));
    }
    failure.map_or(Ok(()), |failure| Err(failure.documented()))
}

/// What is to be said where one or more did not end well: in detail each has said it itself. One that was `told` to end by a
/// signal may have ended by it before it was ready for signals.
fn failure_of(ended: &[Ended], shared: &SharedMemory, told: bool) -> Option<Failure> {
    let well = |ended: &&Ended| ended.status.success() || told && ended.status.signal().is_some();
    let failed: Vec<&Ended> = ended.iter().filter(|ended| !well(ended)).collect();
    let first = failed.first()?;
    if let Some(error) = shared.failure() {
        return Some(machine_errors::run(&RunError::Load(error)));
    }
    let names: Vec<&str> = failed.iter().map(|ended| ended.name.as_str()).collect();
    let what = format!("{} of {} clones failed: {}", failed.len(), ended.len(), names.join(", "));
    Some(Failure::new(Code::of_exit(first.status.code()), what).guest("ended, as the others have"))
}

/// A machine's process.
struct Process {
    name: String,
    process: Child,
    /// What it says on its standard output, where that is a document.
    document: JoinHandle<Vec<u8>>,
    errors: JoinHandle<()>,
}

/// A machine's process that has ended.
struct Ended {
    name: String,
    pid: u32,
    status: ExitStatus,
    document: Option<Value>,
}

impl Process {
    fn start(number: u32, name: &str, shared: &SharedMemory, as_json: bool) -> std::io::Result<Self> {
        // The same program with the same arguments, also where its file was replaced meanwhile.
        let mut process = Command::new("/proc/self/exe")
            .arg0(std::env::args_os().next().unwrap_or_else(|| "ringmark".into()))
            .args(std::env::args_os().skip(1))
            .arg(format!("--clone={number}"))
            .stdin(shared.share()?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (out, err) = (process.stdout.take(), process.stderr.take());
        let (said_by, failed_by) = (name.to_owned(), name.to_owned());
        let document = thread::spawn(move || match out {
            Some(out) if as_json => all_of(out),
            Some(out) => {
                line_by_line(&said_by, out, std::io::stdout);
                Vec::new()
            }
            None => Vec::new(),
        });
        let errors = thread::spawn(move || {
            if let Some(err) = err {
                line_by_line(&failed_by, err, std::io::stderr);
            }
        });
        Ok(Self { name: name.to_owned(), process, document, errors })
    }

    fn wait(mut self) -> Ended {
        let status = self.process.wait().unwrap_or_default();
        // A thread that panicked has said so.
        let document = self.document.join().unwrap_or_default();
        let _ = self.errors.join();
        let document = serde_json::from_slice(&document).ok();
        Ended { name: self.name, pid: self.process.id(), status, document }
    }
}

impl Ended {
    fn document(&self) -> Value {
        let field = |name| self.document.as_ref().and_then(|document| document.get(name));
        let socket = paths::socket(&self.name).ok();
        json!({
            "name": self.name,
            "pid": self.pid,
            "socket": socket,
            "exit_code": self.status.code(),
            "end": field("end"),
            "error": field("error"),
        })
    }
}

fn all_of(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is all that there is.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Prints each line behind the name of who says it.
fn line_by_line<W: Write>(name: &str, stream: impl Read, to: impl Fn() -> W) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        // In one piece; a reader that went away is no reason to hold up the machine.
        let _ = to().write_all(&[name.as_bytes(), b" | ", &line].concat());
        line.clear();
    }
}

/// All processes, to be told together.
#[derive(Clone, Default)]
struct Family {
    members: Arc<Mutex<Members>>,
}

#[derive(Default)]
struct Members {
    processes: Vec<OwnedFd>,
    told: Option<Signal>,
}

impl Family {
    /// Passes an interrupt or a termination on; a terminal has sent the former to all of them itself.
    fn heed_signals(&self) -> std::io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let family = self.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for number in &mut signals {
                family.tell(if number == SIGINT { Signal::INT } else { Signal::TERM });
            }
        })?;
        Ok(())
    }

    fn add(&self, process: &Process) {
        // One that is gone has no descriptor, and needs no signal.
        let Ok(process) = pidfd_open(Pid::from_child(&process.process), PidfdFlags::empty()) else { return };
        let mut members = self.lock();
        if let Some(signal) = members.told {
            let _ = pidfd_send_signal(&process, signal);
        }
        members.processes.push(process);
    }

    fn tell(&self, signal: Signal) {
        let mut members = self.lock();
        members.told = Some(signal);
        for process in &members.processes {
            let _ = pidfd_send_signal(process, signal);
        }
    }

    /// Whether they were told to end.
    fn was_told(&self) -> bool {
        self.lock().told.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
