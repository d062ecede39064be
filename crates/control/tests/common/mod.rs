//! A machine that does nothing but remember, and a socket for it.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses its own part"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ringmark_control::{
    Check, CheckOutcome, Checkpoint, CheckpointRequest, Code, Decision, Failure, GuestState, MigrateProgress,
    MigrateRequest, Migration, Phase, PredictRequest, Predicted, Progress, SCHEMA, Server, Service, Status,
};

/// A gate that a checkpoint waits at while it is shut.
#[derive(Default)]
pub struct Gate {
    shut: Mutex<bool>,
    moved: Condvar,
}

impl Gate {
    pub fn shut(&self) {
        *self.shut.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.shut.lock().unwrap() = false;
        self.moved.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().unwrap();
        drop(self.moved.wait_while(shut, |shut| *shut).unwrap());
    }
}

#[derive(Default)]
pub struct Mock {
    pub gate: Gate,
    pub paused: AtomicBool,
    pub stopped: AtomicBool,
    pub taken: AtomicU64,
    pub running: AtomicBool,
    pub events: AtomicU64,
    pub fail: Mutex<Option<Failure>>,
    pub panic: AtomicBool,
    pub decided: Mutex<Option<Decision>>,
    pub cancelled: AtomicU64,
}

impl Mock {
    pub fn wait_until_running(&self) {
        while !self.running.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
}

impl Service for Mock {
    fn status(&self) -> Result<Status, Failure> {
        let guest = match (self.stopped.load(Ordering::SeqCst), self.paused.load(Ordering::SeqCst)) {
            (true, _) => GuestState::Stopped,
            (_, true) => GuestState::Paused,
            _ => GuestState::Running,
        };
        Ok(Status {
            schema: SCHEMA,
            name: "vm1".to_owned(),
            pid: std::process::id(),
            guest,
            memory: 1 << 30,
            uptime_ms: 1.5,
            checkpoints: self.taken.load(Ordering::SeqCst),
            checkpoint_running: self.running.load(Ordering::SeqCst),
            ..Status::default()
        })
    }

    fn checkpoint(
        &self,
        request: &CheckpointRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checkpoint, Failure> {
        self.running.store(true, Ordering::SeqCst);
        for pages in 0..self.events.load(Ordering::SeqCst) {
            progress(Progress { phase: Phase::Copying, pages, pages_total: 10, ..Progress::default() });
        }
        self.gate.pass();
        self.running.store(false, Ordering::SeqCst);
        assert!(!self.panic.load(Ordering::SeqCst), "asked to panic");
        if let Some(failure) = self.fail.lock().unwrap().clone() {
            return Err(failure);
        }
        self.taken.fetch_add(1, Ordering::SeqCst);
        Ok(Checkpoint {
            schema: SCHEMA,
            image: "ab".repeat(32),
            parent: (!request.full).then(|| "cd".repeat(32)),
            pages: 7,
            by_source: [("ring".to_owned(), 5), ("monitor".to_owned(), 2)].into(),
            bytes: 4096,
            pause_ms: 0.75,
            escapes: Some(0),
            ..Checkpoint::default()
        })
    }

    fn migrate(
        &self,
        request: &MigrateRequest,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(MigrateProgress),
    ) -> Result<Migration, Failure> {
        self.running.store(true, Ordering::SeqCst);
        let mut report =
            ringmark_migrate::report::Report { session: request.to.clone(), ..Default::default() };
        for round in 1..=self.events.load(Ordering::SeqCst) {
            report.ram.dirty_sync_count = u32::try_from(round).unwrap();
            progress(MigrateProgress { report: report.clone(), stopped: false });
        }
        // A gate that is shut is one that waits to be called off.
        let shut = *self.gate.shut.lock().unwrap();
        while shut && !cancel.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.running.store(false, Ordering::SeqCst);
        if shut {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
            return Err(Failure::new(Code::Cancelled, "called off").guest(GuestState::Running));
        }
        report.downtime = 1.5;
        Ok(Migration { schema: SCHEMA, report })
    }

    fn predict(&self, request: &PredictRequest, stop: &AtomicBool) -> Result<Predicted, Failure> {
        self.running.store(true, Ordering::SeqCst);
        // As for a migration.
        let shut = *self.gate.shut.lock().unwrap();
        while shut && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.running.store(false, Ordering::SeqCst);
        if shut {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
            return Err(Failure::new(Code::Cancelled, "called off").guest(GuestState::Running));
        }
        let bandwidth = request.bandwidth.unwrap_or_default();
        Ok(Predicted { schema: SCHEMA, bandwidth: bandwidth as f64, ..Predicted::default() })
    }

    fn decide(&self, decision: Decision) -> Result<Status, Failure> {
        *self.decided.lock().unwrap() = Some(decision);
        self.status()
    }

    fn check(&self) -> Result<Check, Failure> {
        self.gate.pass();
        Ok(Check { schema: SCHEMA, guest_check: CheckOutcome::Ok, pages: 3, ..Check::default() })
    }

    fn pause(&self) -> Result<Status, Failure> {
        self.paused.store(true, Ordering::SeqCst);
        self.status()
    }

    fn resume(&self) -> Result<Status, Failure> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(Failure::new(Code::WrongState, "the guest has stopped")
                .guest(GuestState::Stopped)
                .advice("restore an image"));
        }
        self.paused.store(false, Ordering::SeqCst);
        self.status()
    }

    fn stop(&self) -> Result<Status, Failure> {
        self.stopped.store(true, Ordering::SeqCst);
        self.status()
    }
}

pub struct Rig {
    pub mock: Arc<Mock>,
    pub server: Option<Server>,
    pub path: PathBuf,
    pub dir: tempfile::TempDir,
}

/// A served mock in a directory of its own.
pub fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    // Not the directory itself, which is made with whatever mode the umask gives.
    let path = dir.path().join("run/vm1.sock");
    let mock = Arc::new(Mock::default());
    let server = Server::bind(&path, mock.clone()).unwrap();
    Rig { mock, server: Some(server), path, dir }
}

/// A connection that gives up instead of hanging the test.
pub fn dial(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Sends bytes as they are and returns everything that comes back.
pub fn raw(path: &Path, request: &[u8]) -> String {
    let mut stream = dial(path);
    // The server may answer and close before all is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
