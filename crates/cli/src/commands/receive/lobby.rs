//! What answers at a machine's socket while it is still arriving, and afterwards for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};

use ringmark_control::{
    Check, Checkpoint, CheckpointRequest, Code, Decision, Failure, GuestState, MigrateProgress,
    MigrateRequest, Migration, PredictRequest, Predicted, Progress, SCHEMA, Service, Status,
};
use ringmark_migrate::{Address, Offer, receive};

use super::lock;
use crate::failure;
use crate::host::Ending;
use crate::service::MachineService;

/// How far a machine has come.
pub(super) enum Phase {
    /// None comes; one whose link was cut may have left what it has, and its socket.
    Waiting,
    /// Its pages come.
    Receiving,
    /// All is here. The source decides, or has.
    Prepared,
    /// The source was lost.
    Undecided,
    /// The guest runs here; who waits for its end.
    Running(Sender<Ending>),
}

/// One for all machines that try to come.
pub(super) struct Lobby {
    phase: Mutex<Phase>,
    expected: Mutex<Status>,
    /// Its control socket.
    socket: Mutex<PathBuf>,
    decision: Mutex<Option<receive::Decision>>,
    /// Once it is there.
    machine: OnceLock<Arc<MachineService>>,
}

impl Lobby {
    pub(super) fn new(store: &str) -> Self {
        let expected =
            Status { schema: SCHEMA, pid: std::process::id(), store: store.to_owned(), ..Status::default() };
        Self {
            phase: Mutex::new(Phase::Waiting),
            expected: Mutex::new(expected),
            socket: Mutex::default(),
            decision: Mutex::default(),
            machine: OnceLock::new(),
        }
    }

    /// The machine of `offer` comes under `name`.
    pub(super) fn expect(&self, name: String, offer: &Offer) {
        let mut expected = lock(&self.expected);
        expected.name = name;
        expected.hypervisor.clone_from(&offer.hypervisor);
        expected.vcpus = offer.vcpus;
        expected.page_size = offer.page_bytes;
        expected.memory = offer.slots.iter().map(|slot| slot.npages.saturating_mul(offer.page_bytes)).sum();
        *lock(&self.decision) = None;
    }

    /// It is served at `socket`.
    pub(super) fn serve_at(&self, socket: &Path) {
        socket.clone_into(&mut lock(&self.socket));
    }

    pub(super) fn name(&self) -> String {
        lock(&self.expected).name.clone()
    }

    pub(super) fn enter(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }

    /// What a person has said, once.
    pub(super) fn decision(&self) -> Option<receive::Decision> {
        lock(&self.decision).take()
    }

    pub(super) fn arrived(&self, machine: Arc<MachineService>, endings: Sender<Ending>) {
        // There is one arrival.
        let _ = self.machine.set(machine);
        self.enter(Phase::Running(endings));
    }

    /// An interrupt or a termination. While pages come it ends this process under the lock that has to be passed before the
    /// source is told that it may hand the guest over; from then on the guest may be here and nowhere else.
    pub(super) fn interrupted(&self, number: i32, stop: &AtomicBool, address: &Address) {
        let name = signal_hook::low_level::signal_name(number).unwrap_or("signal");
        let phase = lock(&self.phase);
        match &*phase {
            Phase::Waiting => stop.store(true, Ordering::Relaxed),
            Phase::Receiving => {
                eprintln!("ringmark: {name}: the machine is not taken; its guest runs on at its source");
                // What is left there is taken for a dead process's, and replaced.
                let _ = std::fs::remove_file(&*lock(&self.socket));
                if let Address::Unix(path) = address {
                    let _ = std::fs::remove_file(path);
                }
                std::process::exit(failure::Code::Cancelled as i32);
            }
            Phase::Prepared | Phase::Undecided => eprintln!(
                "ringmark: {name} is not obeyed: the guest may exist here and nowhere else. Say what is to become of it with \
                 `ringmark migrate {} --decide run` or `--decide discard`",
                self.name()
            ),
            Phase::Running(endings) => {
                // Nobody waits any more: the machine has ended by itself.
                let _ = endings.send(Ending::Signal(number));
            }
        }
    }

    fn guest(&self) -> GuestState {
        match &*lock(&self.phase) {
            Phase::Undecided => GuestState::Undecided,
            _ => GuestState::Arriving,
        }
    }

    /// The machine, if it is there.
    fn machine(&self) -> Result<&Arc<MachineService>, Failure> {
        self.machine.get().ok_or_else(|| {
            Failure::new(Code::WrongState, "the machine is still arriving")
                .guest(self.guest())
                .advice("wait until it runs here")
        })
    }
}

impl Service for Lobby {
    fn status(&self) -> Result<Status, Failure> {
        match self.machine.get() {
            Some(machine) => machine.status(),
            None => Ok(Status { guest: self.guest(), ..lock(&self.expected).clone() }),
        }
    }

    fn checkpoint(
        &self,
        request: &CheckpointRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checkpoint, Failure> {
        self.machine()?.checkpoint(request, progress)
    }

    fn migrate(
        &self,
        request: &MigrateRequest,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(MigrateProgress),
    ) -> Result<Migration, Failure> {
        self.machine()?.migrate(request, cancel, progress)
    }

    fn predict(&self, request: &PredictRequest, stop: &AtomicBool) -> Result<Predicted, Failure> {
        self.machine()?.predict(request, stop)
    }

    fn decide(&self, decision: Decision) -> Result<Status, Failure> {
        if let Some(machine) = self.machine.get() {
            return machine.decide(decision);
        }
        if self.guest() != GuestState::Undecided {
            return Err(Failure::new(Code::WrongState, "there is nothing to decide: the source is there")
                .guest(self.guest())
                .advice("wait until it runs here, or cancel the migration at its source"));
        }
        *lock(&self.decision) = Some(match decision {
            Decision::Run => receive::Decision::Run,
            Decision::Discard => receive::Decision::Discard,
        });
        self.status()
    }

    fn check(&self) -> Result<Check, Failure> {
        self.machine()?.check()
    }

    fn pause(&self) -> Result<Status, Failure> {
        self.machine()?.pause()
    }

    fn resume(&self) -> Result<Status, Failure> {
        self.machine()?.resume()
    }

    fn stop(&self) -> Result<Status, Failure> {
        self.machine()?.stop()
    }
}
