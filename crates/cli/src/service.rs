//! A machine behind its control socket.

mod migration;
mod prediction;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringmark_care::keep::KeepPolicy;
use ringmark_control::{
    Advice, Check, CheckOutcome, Checkpoint, CheckpointRequest, Code, Decision, Escape, Failure, GuestState,
    MigrateProgress, MigrateRequest, Migration, Phase, PredictRequest, Predicted, Progress, SCHEMA, Schedule,
    Service, Status,
};
use ringmark_guest::Report;
use ringmark_image::{BeginError, Store, WriteError};
use ringmark_machine::{
    self as machine, CheckError, CheckpointError, CheckpointOptions, End, Machine, PauseError, RunState,
};
use ringmark_track::{self as track, AuditRate, SourceKind};

/// How long a guest may take to check itself.
const CHECK_LIMIT: Duration = Duration::from_secs(120);

/// A machine and the store of its images.
pub(crate) struct MachineService {
    machine: Arc<Machine>,
    store: Store,
    taken: Mutex<Taken>,
    schedule: Mutex<Option<Schedule>>,
}

/// The checkpoints of this process.
#[derive(Default)]
struct Taken {
    count: u64,
    last: Option<Checkpoint>,
}

impl MachineService {
    pub(crate) fn new(machine: Arc<Machine>, store: Store) -> Self {
        Self { machine, store, taken: Mutex::default(), schedule: Mutex::default() }
    }

    /// Removes the images of this machine that `policy` does not keep, and returns how many.
    pub(crate) fn prune(&self, policy: &KeepPolicy) -> Result<u64, String> {
        let removed = ringmark_care::prune::prune(&self.store, policy, Some(&self.machine.facts().name));
        removed.map(|removed| removed.images).map_err(|error| error.to_string())
    }

    /// What the schedule has come to.
    pub(crate) fn set_schedule(&self, schedule: Schedule) {
        *self.schedule.lock().unwrap_or_else(PoisonError::into_inner) = Some(schedule);
    }

    fn guest(&self) -> GuestState {
        match (self.machine.outcome(), self.machine.run_state()) {
            (Some(Ok(End::Left)), _) => GuestState::Left,
            (Some(_), _) => GuestState::Stopped,
            (None, RunState::Running) => GuestState::Running,
            (None, RunState::Paused) => GuestState::Paused,
            (None, RunState::Undecided) => GuestState::Undecided,
        }
    }

    fn pause_failure(&self, error: &PauseError) -> Failure {
        let code = match error {
            PauseError::Ended | PauseError::Undecided => Code::WrongState,
            PauseError::Stop(_) => Code::Guest,
        };
        Failure::new(code, error.to_string()).guest(self.guest())
    }

    fn checkpoint_failure(&self, error: &CheckpointError) -> Failure {
        let code = match error {
            CheckpointError::Busy => Code::Busy,
            CheckpointError::Ended => Code::WrongState,
            CheckpointError::Write(WriteError::Full { .. }) => Code::StoreFull,
            CheckpointError::Begin(BeginError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                Code::StoreFull
            }
            CheckpointError::Begin(_) | CheckpointError::Write(_) => Code::Store,
            CheckpointError::Track(_) | CheckpointError::Round(_) | CheckpointError::Cut(_) => Code::Tracking,
            CheckpointError::Escapes(_) | CheckpointError::Unseen { .. } => Code::Escape,
            _ => Code::Guest,
        };
        let advice = match code {
            Code::Busy => "wait for it to finish",
            Code::StoreFull => {
                "free space in the store's file system and try again: earlier images are intact, and the next checkpoint \
                 contains this one's pages"
            }
            Code::Escape => "take another checkpoint: it will be a base",
            _ => "try again: earlier images are intact, and the next checkpoint contains this one's pages",
        };
        let failure = Failure::new(code, error.to_string()).guest(self.guest()).advice(advice);
        match error {
            CheckpointError::Escapes(escapes) | CheckpointError::Unseen { escapes, .. } => {
                failure.escapes(escapes.iter().map(wire_escape))
            }
            _ => failure,
        }
    }
}

impl Service for MachineService {
    fn status(&self) -> Result<Status, Failure> {
        let facts = self.machine.facts();
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Status {
            schema: SCHEMA,
            name: facts.name.clone(),
            pid: std::process::id(),
            guest: self.guest(),
            hypervisor: facts.hypervisor.name().into(),
            tracking: facts.tracking.method.to_string(),
            tracking_why: facts.tracking.why.clone(),
            vcpus: facts.vcpus,
            memory: facts.memory,
            page_size: facts.page_size,
            uptime_ms: milliseconds(self.machine.started().elapsed()),
            store: self.store.location().to_owned(),
            restored_from: facts.restored_from.map(|id| id.to_hex()),
            guest_pages_written: self.machine.pages_written(),
            checkpoint_running: self.machine.is_checkpointing(),
            migration_running: self.machine.is_migrating(),
            prediction_running: self.machine.is_predicting(),
            audit_percent: facts.audit.map(percent),
            checkpoints: taken.count,
            last_checkpoint: taken.last.clone(),
            schedule: self.schedule.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    fn checkpoint(
        &self,
        request: &CheckpointRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checkpoint, Failure> {
        let audit = request.audit.as_deref().map(str::parse::<AuditRate>).transpose().map_err(|error| {
            Failure::new(Code::BadRequest, error.to_string())
                .guest(self.guest())
                .advice("ask for `100%` or less")
        })?;
        let options = CheckpointOptions { full: request.full, audit };
        let mut show = |at: machine::Progress| progress(wire_progress(at));
        let taken = self
            .machine
            .checkpoint(&self.store, options, &mut show)
            .map_err(|error| self.checkpoint_failure(&error))?;
        let taken = wire_checkpoint(&taken);
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for advice in &taken.advice {
            // Said once at the machine's own terminal, until it is taken back; each checkpoint's answer has it.
            let before = all.last.as_ref().map_or(&[][..], |last| &last.advice);
            if before.iter().all(|known| known.kind != advice.kind) {
                eprintln!("ringmark: {}", advice.text);
            }
        }
        all.count += 1;
        all.last = Some(taken.clone());
        Ok(taken)
    }

    fn migrate(
        &self,
        request: &MigrateRequest,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(MigrateProgress),
    ) -> Result<Migration, Failure> {
        self.send(request, cancel, progress)
    }

    fn predict(&self, request: &PredictRequest, stop: &AtomicBool) -> Result<Predicted, Failure> {
        self.foresee(request, stop)
    }

    fn decide(&self, decision: Decision) -> Result<Status, Failure> {
        self.decided(decision)
    }

    fn check(&self) -> Result<Check, Failure> {
        match self.machine.check(CHECK_LIMIT) {
            Ok(report) => Ok(Check {
                schema: SCHEMA,
                guest_check: outcome(&report.guest),
                memory_check: outcome(&report.memory),
                guest_detail: detail(&report.guest),
                memory_detail: detail(&report.memory),
                pages: report.memory.pages,
            }),
            Err(CheckError::NoCertificates) => Ok(Check {
                schema: SCHEMA,
                guest_check: CheckOutcome::Absent,
                memory_check: CheckOutcome::Absent,
                guest_detail: CheckError::NoCertificates.to_string(),
                memory_detail: CheckError::NoCertificates.to_string(),
                pages: 0,
            }),
            Err(error) => {
                let code = match error {
                    CheckError::Paused | CheckError::Pause(PauseError::Ended) => Code::WrongState,
                    CheckError::Timeout(_) => Code::Timeout,
                    _ => Code::Guest,
                };
                Err(Failure::new(code, error.to_string()).guest(self.guest()))
            }
        }
    }

    fn pause(&self) -> Result<Status, Failure> {
        self.machine.pause().map_err(|error| self.pause_failure(&error))?;
        self.status()
    }

    fn resume(&self) -> Result<Status, Failure> {
        self.machine.resume().map_err(|error| self.pause_failure(&error))?;
        self.status()
    }

    fn stop(&self) -> Result<Status, Failure> {
        self.machine.end();
        self.status()
    }
}

fn outcome(report: &Report) -> CheckOutcome {
    if report.damaged == 0 { CheckOutcome::Ok } else { CheckOutcome::Failed }
}

fn detail(report: &Report) -> String {
    match report.damages().next() {
        None => format!("{} certificates on {} pages", report.lanes, report.pages),
        Some(first) => format!("{} disagreements; the first: {first}", report.damaged),
    }
}

/// Milliseconds with a fraction.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn wire_progress(at: machine::Progress) -> Progress {
    Progress {
        phase: match at.phase {
            machine::Phase::Copying => Phase::Copying,
            machine::Phase::Paused => Phase::Paused,
            machine::Phase::Writing => Phase::Writing,
            machine::Phase::Syncing => Phase::Syncing,
        },
        pages: at.pages,
        pages_total: at.total,
        bytes: at.bytes,
        elapsed_ms: milliseconds(at.elapsed),
    }
}

fn wire_checkpoint(taken: &machine::Checkpoint) -> Checkpoint {
    let by = taken.by_source;
    let by_source = [
        ("carried", by.carried),
        ("ring", by.ring),
        ("bitmap", by.bitmap),
        ("monitor", by.monitor),
        ("other", by.other),
        ("event", by.event),
    ];
    let audit = taken.audit.as_ref();
    let audit_time = audit.map(|audit| audit.elapsed);
    let check_time = taken.check.map(|check| check.elapsed);
    Checkpoint {
        schema: SCHEMA,
        image: taken.image.to_hex(),
        parent: taken.parent.map(|id| id.to_hex()),
        pages: taken.stored.pages,
        by_source: by_source
            .map(|(name, pages)| (name.to_owned(), pages))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        zero_pages: taken.stored.zero_pages,
        bytes: taken.stored.bytes_stored,
        rounds: taken.rounds,
        last_round_pages: taken.last_round,
        superseded_pages: taken.stored.superseded_pages,
        gathered_pages: taken.stored.gathered_pages,
        taken_bytes_per_s: taken.stored.rates.put_rate(),
        stored_bytes_per_s: taken.stored.rates.stored_rate(),
        pause_ms: milliseconds(taken.pause),
        stopped_ms: milliseconds(
            taken.pause + audit_time.unwrap_or_default() + check_time.unwrap_or_default(),
        ),
        audit_ms: audit_time.map(milliseconds),
        total_ms: milliseconds(taken.total),
        // A checkpoint whose audit finds an escape is not taken.
        escapes: (audit.is_some() || taken.check.is_some()).then_some(0),
        audit_pages: audit.map(|audit| audit.compared),
        audit_bytes: audit.map(|audit| audit.bytes),
        audit_percent: audit.map(|audit| percent(audit.rate)),
        audit_baseline: audit.map(|audit| audit.baseline),
        check_with: taken.check.map(|check| check.with.to_string()),
        check_pages: taken.check.map(|check| check.pages),
        check_ms: check_time.map(milliseconds),
        advice: taken.advice.iter().map(wire_advice).collect(),
    }
}

fn percent(rate: AuditRate) -> f64 {
    rate.probability() * 100.0
}

fn wire_advice(advice: &track::Advice) -> Advice {
    let kind = match advice {
        track::Advice::StandaloneBitmaps { .. } => "standalone_bitmaps",
        track::Advice::StopAndCopy { .. } => "stop_and_copy",
    };
    let (now, instead) = advice.times();
    Advice {
        kind: kind.into(),
        text: advice.to_string(),
        share_percent: advice.share() * 100.0,
        now_ms: milliseconds(now),
        instead_ms: milliseconds(instead),
    }
}

fn wire_escape(escape: &track::Escape) -> Escape {
    let name = |kind| {
        match kind {
            SourceKind::Ring => "ring",
            SourceKind::Bitmap => "bitmap",
            SourceKind::Other => "other",
            SourceKind::Monitor => "monitor",
        }
        .to_owned()
    };
    Escape {
        slot: escape.slot.raw(),
        page: escape.offset,
        gfn: escape.gfn.0,
        address: escape.address(),
        last_source: escape.last.map(|last| name(last.source)),
        last_epochs_ago: escape.last.map(|last| last.epochs_ago),
        ought: escape.ought.iter().map(name).collect(),
    }
}
