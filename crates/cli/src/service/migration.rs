//! Sending the machine away.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ringmark_control::{
    Code, Decision, Failure, GuestState, MemoryWish, MigrateProgress, MigrateRequest, Migration, Prefer,
    SCHEMA, Service, Status,
};
use ringmark_machine::{MigrateError, NotUndecided};
use ringmark_migrate::send::{self, DepartError, SendOptions, SendProgress, SourceGuest};
use ringmark_migrate::{Address, Connector, receive};

use super::MachineService;
use crate::link::{self, PATIENCE};

/// The downtime aimed at where nothing else is asked for.
pub(super) const MAX_DOWNTIME: Duration = Duration::from_millis(10);

impl MachineService {
    pub(super) fn send(
        &self,
        request: &MigrateRequest,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(MigrateProgress),
    ) -> Result<Migration, Failure> {
        let wrong = |what: String| Failure::new(Code::BadRequest, what).guest(self.guest());
        let to = connector(request).map_err(wrong)?;
        let options = options(request).map_err(wrong)?;
        let mut watch = |at: &SendProgress<'_>| {
            progress(MigrateProgress { report: at.report.clone(), stopped: at.stopped });
        };
        let left = if request.resume {
            self.machine.resume_migration(&to, &options, cancel, &mut watch)
        } else {
            self.machine.migrate(&to, &options, cancel, &mut watch)
        };
        let report = left.map_err(|error| self.migrate_failure(&error, &request.to))?;
        eprintln!("ringmark: the guest has left: it runs at {}", request.to);
        Ok(Migration { schema: SCHEMA, report })
    }

    pub(super) fn decided(&self, decision: Decision) -> Result<Status, Failure> {
        let decision = match decision {
            Decision::Run => receive::Decision::Run,
            Decision::Discard => receive::Decision::Discard,
        };
        self.machine.decide(decision).map_err(|error: NotUndecided| {
            Failure::new(Code::WrongState, error.to_string()).guest(self.guest())
        })?;
        self.status()
    }

    fn migrate_failure(&self, error: &MigrateError, to: &str) -> Failure {
        let message = error.departure().map_or_else(|| error.to_string(), ToString::to_string);
        let name = &self.machine.facts().name;
        if error.guest() == Some(SourceGuest::Undecided) || matches!(error, MigrateError::Undecided) {
            let failure = Failure::new(Code::Undecided, message).guest(GuestState::Undecided).advice(format!(
                "look whether the guest runs at {to}. If it does, `ringmark migrate {name} --decide discard` here; if it never \
                 will, `ringmark migrate {name} --decide run`"
            ));
            eprintln!(
                "ringmark: {failure}\n  guest: stands still here, for it may run there\n  to do: {}",
                failure.advice
            );
            return failure;
        }
        let code = match error {
            MigrateError::Busy => Code::Busy,
            MigrateError::Ended | MigrateError::NothingToResume => Code::WrongState,
            _ => error.departure().map_or(Code::Guest, code_of),
        };
        if error.is_resumable() {
            // Where it was refused, for what it did not know yet, the destination has said what to do.
            let advice = format!(
                "see whether `ringmark receive` waits there, and go on from what it holds: `ringmark migrate {name} {to} --resume`"
            );
            return Failure::new(code, message).guest(self.guest()).advice(advice);
        }
        let advice = match code {
            Code::Busy => "wait for it and ask again",
            Code::WrongState if matches!(error, MigrateError::NothingToResume) => {
                "migrate it without --resume"
            }
            Code::Unreachable => "see whether `ringmark receive` waits there, and what it says",
            Code::Refused if matches!(error.departure(), Some(DepartError::NoMemoryFile(_))) => "",
            Code::Refused => "do what it says at the destination, or choose another",
            Code::Escape => "take a checkpoint: it will be a base",
            Code::Cancelled => "",
            _ => "try again: the machine is as it was, and no page is lost",
        };
        Failure::new(code, message).guest(self.guest()).advice(advice)
    }
}

fn code_of(error: &DepartError) -> Code {
    match error {
        DepartError::Connect(_) | DepartError::Link(_) | DepartError::OutOfTurn(_) => Code::Unreachable,
        DepartError::Refused(_) | DepartError::Failed(_) | DepartError::NoMemoryFile(_) => Code::Refused,
        DepartError::Track(_) | DepartError::Round(_) | DepartError::Cut(_) => Code::Tracking,
        DepartError::Goal { .. } => Code::Goal,
        DepartError::Cancelled => Code::Cancelled,
        DepartError::Escapes(_) => Code::Escape,
        _ => Code::Guest,
    }
}

fn connector(request: &MigrateRequest) -> Result<Connector, String> {
    let address: Address = request.to.parse().map_err(|error| format!("{error}"))?;
    let tls = request.tls.as_ref().map(link::load).transpose()?;
    Connector::new(address, tls, request.insecure, PATIENCE).map_err(|error| error.to_string())
}

fn options(request: &MigrateRequest) -> Result<SendOptions, String> {
    let defaults = SendOptions::default();
    let audit = request.audit.as_deref().map(str::parse).transpose();
    Ok(SendOptions {
        memory: match request.memory {
            MemoryWish::Auto => send::MemoryWish::Auto,
            MemoryWish::Copy => send::MemoryWish::Copy,
            MemoryWish::Descriptor => send::MemoryWish::Descriptor,
        },
        streams: request.streams,
        bandwidth: request.bandwidth,
        max_downtime: request.max_downtime_ms.map(time).transpose()?.unwrap_or(MAX_DOWNTIME),
        max_total: request.max_total_ms.map(time).transpose()?,
        prefer: match request.prefer {
            Prefer::Guest => send::Prefer::Guest,
            Prefer::Downtime => send::Prefer::Downtime,
        },
        verify_full: request.verify_full,
        audit: audit.map_err(|error: ringmark_track::AuditRateError| error.to_string())?,
        ..defaults
    })
}

/// A request's milliseconds.
pub(super) fn time(ms: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(ms / 1e3).map_err(|error| format!("{ms} ms are no time: {error}"))
}
