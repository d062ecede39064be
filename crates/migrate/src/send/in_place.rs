//! Memory that stays where it is: the guest stops here and starts there, and nothing is sent but its state.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ringmark_track::{Audit, BoxError, Vcpus};

use super::switch::Lap;
use super::{
    DepartError, Departed, Departing, Departure, MemoryWish, SendOptions, SendProgress, SourceGuest,
};
use crate::handover::SourceDuty;
use crate::link::Link;
use crate::report::{MemoryBy, Report};
use crate::wire::{Message, Prepared, Session};

/// The memory file of `machine`, where it may be handed to the peer on `control`; or why not, for people.
pub(super) fn offered<'m, M: Departing>(
    machine: &'m M,
    options: &SendOptions,
    control: &Link,
) -> Result<Result<BorrowedFd<'m>, Option<String>>, DepartError> {
    match options.memory {
        MemoryWish::Copy => Ok(Err(None)),
        MemoryWish::Descriptor => {
            let file = control.may_share().and_then(|()| machine.memory_file());
            file.map(Ok).map_err(DepartError::NoMemoryFile)
        }
        MemoryWish::Auto if !control.is_local() => Ok(Err(None)),
        MemoryWish::Auto => Ok(control.may_share().and_then(|()| machine.memory_file()).map_err(Some)),
    }
}

/// The answer to an offer, and whether the memory file was asked for first, and so handed over.
pub(super) fn answer(
    control: &mut Link,
    file: Option<BorrowedFd<'_>>,
    bytes: u64,
) -> Result<(Message, bool), DepartError> {
    match (Message::receive(control)?, file) {
        (Message::WantMemoryFile, Some(file)) => {
            let mut message = Vec::new();
            Message::MemoryFile { bytes }.send(&mut message)?;
            control.send_with_file(&message, file)?;
            Ok((Message::receive(control)?, true))
        }
        (answer, _) => Ok((answer, false)),
    }
}

/// Whether the destination has mapped the offered `file`, which was `handed` over if it has asked; else why not, where that is
/// worth saying.
pub(super) fn mapped(
    file: Result<BorrowedFd<'_>, Option<String>>,
    handed: bool,
    options: &SendOptions,
    maps: bool,
    why_not: Option<String>,
) -> Result<Result<(), Option<String>>, DepartError> {
    let why_not = match file {
        _ if maps && handed => return Ok(Ok(())),
        // What it has mapped is not this memory.
        _ if maps => return Err(DepartError::OutOfTurn("accept")),
        Ok(_) => why_not.unwrap_or_else(|| "the destination does not take memory so".into()),
        Err(why) => return Ok(Err(why)),
    };
    match options.memory {
        MemoryWish::Descriptor => Err(DepartError::NoMemoryFile(why_not)),
        MemoryWish::Auto | MemoryWish::Copy => Ok(Err(Some(why_not))),
    }
}

/// Tells a destination that has accepted that nothing follows; it would find out by the end of the connection, too.
pub(super) fn part(control: &mut Link, session: Session, error: &DepartError) {
    let _ = Message::Abort { session, reason: error.to_string() }.send(control);
}

/// Says in `report` how memory gets there.
pub(super) fn note(report: &mut Report, mapped: Result<(), Option<String>>) {
    match mapped {
        Ok(()) => {
            report.memory = MemoryBy::Descriptor;
            report.ram.remaining = 0;
            if report.verified != "full" {
                report.verified = "same-memory".into();
            }
        }
        Err(why) => report.copied_because = why,
    }
}

/// vCPUs that are stopped: dropped, it lets them run on.
struct Standstill<'h, V: Vcpus> {
    vcpus: &'h mut V,
    stands: bool,
}

impl<'h, V: Vcpus> Standstill<'h, V> {
    /// Stops `vcpus`; some may be stopped even if that fails, and are let run on.
    fn new(vcpus: &'h mut V) -> Result<Self, BoxError> {
        let standstill = Self { vcpus, stands: true };
        standstill.vcpus.stop()?;
        Ok(standstill)
    }

    /// Leaves them stopped.
    fn keep(mut self) {
        self.stands = false;
    }
}

impl<V: Vcpus> Drop for Standstill<'_, V> {
    fn drop(&mut self) {
        if self.stands
            && let Err(error) = self.vcpus.resume()
        {
            tracing::error!(%error, "the guest stays here, is stopped, and could not be resumed");
        }
    }
}

impl<'a, M: Departing> Departure<'a, M> {
    /// Stops the guest and hands it over with the memory that the destination has mapped already.
    pub(super) fn hand_over(mut self, watch: &mut dyn FnMut(&SendProgress<'_>)) -> Result<Report, Departed> {
        let machine = self.machine;
        let stopped = Instant::now();
        // Outlives the standstill, which either resumes it or leaves it standing.
        let mut halted = machine.halt();
        let (standstill, prepared) = match self.prepare_in_place(&mut halted, stopped) {
            Ok(prepared) => prepared,
            Err(error) => return Err(self.stay(error)),
        };
        match self.commit() {
            Ok((SourceDuty::End, ran)) => {
                let now = Instant::now() - ran.since;
                let (downtime, total) = (now - stopped, now - self.begun);
                standstill.keep();
                self.conclude(downtime, total, prepared, ran.resume);
                watch(&SendProgress { report: &self.report, stopped: true });
                machine.leave(halted, false);
                Ok(self.report)
            }
            Ok(_) => {
                drop(standstill);
                let error = DepartError::Failed("it gave the guest up after it had been prepared".into());
                Err(Departed::new(error, SourceGuest::RunsOn))
            }
            Err(error) => {
                standstill.keep();
                machine.leave(halted, true);
                Err(Departed::new(error, SourceGuest::Undecided))
            }
        }
    }

    /// Stops the guest, and returns when the destination is prepared to run it. Whatever fails, it runs on here.
    fn prepare_in_place<'h>(
        &mut self,
        halted: &'h mut M::Halted<'a>,
        begun: Instant,
    ) -> Result<(Standstill<'h, M::Halted<'a>>, Prepared), DepartError> {
        let machine = self.machine;
        if self.cancel.load(Ordering::Relaxed) {
            return Err(DepartError::Cancelled);
        }
        let mut clock = Lap(begun);
        let standstill = Standstill::new(halted).map_err(DepartError::Stop)?;
        self.report.downtime_breakdown.kick = clock.lap();
        let state = machine.save(standstill.vcpus).map_err(DepartError::Save)?;
        self.report.downtime_breakdown.save = clock.lap();
        self.side = self.side.stop();
        let full_digest = if self.options.verify_full {
            let audit = Audit::begin(machine.slots(), machine.memory()).map_err(DepartError::Memory)?;
            self.report.downtime_breakdown.source_digest = clock.lap();
            audit.digest()
        } else {
            None
        };
        // Over the pages that were sent: none.
        let digest = self.digest();
        self.asked = true;
        Message::Prepare { state, digest, full_digest, ends_streams: false }.send(&mut self.control)?;
        match Message::receive(&mut self.control)? {
            // Until here a cancellation is in time: nothing was promised to the destination.
            Message::Prepared(_) if self.cancel.load(Ordering::Relaxed) => Err(DepartError::Cancelled),
            Message::Prepared(prepared) => Ok((standstill, prepared)),
            Message::Failed { reason } => Err(DepartError::Failed(reason)),
            other => Err(DepartError::OutOfTurn(other.name())),
        }
    }
}
