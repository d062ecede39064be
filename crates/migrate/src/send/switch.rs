//! The switchover: the guest stops here, and starts there.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::mutant::{self, Mutant};
use ringmark_track::{Audit, Cut, OpenEpoch, Sealed, Vcpus};

use super::converge::CALLED_OFF;
use super::predicting::Wanted;
use super::{DepartError, Departed, Departing, Departure, Prefer, SendProgress, SourceGuest, inquire};
use crate::handover::SourceDuty;
use crate::link::Link;
use crate::report::{CalledOff, Report, Status, Throttled, milliseconds};
use crate::wire::{Message, Prepared, Standing};

/// How long to wait before a destination that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A sealed cut whose vCPUs outlive it.
type Standstill<'t, 'h, V> = Cut<'t, Sealed<&'h mut V>>;

/// What came of stopping the guest.
enum Halt<'t, 'h, V: Vcpus> {
    /// The destination is prepared to run it. Dropping the cut lets it run on here.
    Prepared(Standstill<'t, 'h, V>, Prepared),
    /// More was left than the goal allows, and the guest runs on.
    CalledOff(OpenEpoch<'t>),
}

impl<'a, M: Departing> Departure<'a, M> {
    /// Sends rounds, stops the guest, sends what is left, and hands the guest over.
    pub(super) fn travel(
        mut self,
        mut epoch: OpenEpoch<'_>,
        watch: &mut dyn FnMut(&SendProgress<'_>),
    ) -> Result<Report, Departed> {
        let machine = self.machine;
        loop {
            if let Err(error) = self.precopy(&mut epoch, watch) {
                return Err(self.stay(error));
            }
            let stopped = Instant::now();
            // Outlives the cut, which either resumes it or leaves it standing.
            let mut halted = machine.halt();
            let (sealed, prepared) = match self.prepare(epoch, &mut halted, stopped) {
                Ok(Halt::Prepared(sealed, prepared)) => (sealed, prepared),
                Ok(Halt::CalledOff(again)) => {
                    epoch = again;
                    continue;
                }
                Err(error) => {
                    // The cut was dropped: the guest runs on, and its pages are the tracker's.
                    return Err(self.stay(error));
                }
            };
            return match self.commit() {
                Ok((SourceDuty::End, ran)) => {
                    let now = Instant::now() - ran.since;
                    let (downtime, total) = (now - stopped, now - self.begun);
                    sealed.stand_still();
                    // Before the machine ends, and with it perhaps whoever says what became of it: this may be waited for.
                    self.take_prediction(Wanted::AtTheEnd);
                    self.conclude(downtime, total, prepared, ran.resume);
                    watch(&SendProgress { report: &self.report, stopped: true });
                    machine.leave(halted, false);
                    Ok(self.report)
                }
                Ok(_) => {
                    drop(sealed);
                    let error = DepartError::Failed("it gave the guest up after it had been prepared".into());
                    Err(Departed::new(error, SourceGuest::RunsOn))
                }
                Err(error) => {
                    sealed.stand_still();
                    machine.leave(halted, true);
                    Err(Departed::new(error, SourceGuest::Undecided))
                }
            };
        }
    }

    /// The last pages and the state, until the destination is prepared to run the guest; or none of it, if the guest would
    /// stand still for longer than was asked for and may not have to.
    ///
    /// From here on nobody is called who may take his time.
    fn prepare<'t, 'h>(
        &mut self,
        epoch: OpenEpoch<'t>,
        halted: &'h mut M::Halted<'a>,
        begun: Instant,
    ) -> Result<Halt<'t, 'h, M::Halted<'a>>, DepartError> {
        let machine = self.machine;
        let mut clock = Lap(begun);
        let cut = epoch.cut().stop(halted)?;
        self.report.downtime_breakdown.kick = clock.lap();
        let (cut, state) = cut.save_devices(|halted| machine.save(halted))?;
        self.report.downtime_breakdown.save = clock.lap();
        let sealed = cut.seal()?;
        self.report.downtime_breakdown.harvest = clock.lap();
        // What was harvested beside a round that was the last one is in no other.
        let mut last = sealed.pages().clone();
        if !mutant::active(Mutant::OwedForgotten) {
            last.union_with(&self.owed);
        }
        if let Some(expected) = self.convergence.exceeds_goal(last.len(), begun.elapsed()) {
            if self.report.called_off.len() < CALLED_OFF && !self.is_late() {
                let pages = last.len();
                let epoch = sealed.call_off()?;
                self.convergence.called_off();
                self.report.called_off.push(CalledOff { pages, elapsed: milliseconds(begun.elapsed()) });
                return Ok(Halt::CalledOff(epoch));
            }
            if self.options.prefer == Prefer::Guest {
                return Err(self.goal(expected));
            }
        }
        self.side = self.side.stop();
        let before = self.report.ram.transferred;
        let sent = self.send(&last, true)?;
        let elapsed = clock.lap();
        self.report.downtime_breakdown.pages = elapsed;
        if let Some(rate) = self.options.audit {
            let found = self.ledger.escapes(machine.memory(), rate).map_err(DepartError::Memory)?;
            self.report.downtime_breakdown.audit = clock.lap();
            if !found.is_empty() {
                return Err(DepartError::Escapes(found));
            }
        }
        let full_digest = if self.options.verify_full {
            let digest =
                Audit::begin(machine.slots(), machine.memory()).map_err(DepartError::Memory)?.digest();
            self.report.downtime_breakdown.source_digest = clock.lap();
            digest
        } else {
            None
        };
        let digest = self.digest();
        self.asked = true;
        Message::Prepare { state, digest, full_digest, ends_streams: self.ends_streams }
            .send(&mut self.control)?;
        self.note(&last, &sent, Duration::from_secs_f64(elapsed / 1e3), Duration::ZERO);
        self.report.ram.downtime_bytes = self.report.ram.transferred - before;
        self.report.ram.remaining = 0;
        match Message::receive(&mut self.control)? {
            // Until here a cancellation is in time: nothing was promised to the destination.
            Message::Prepared(_) if self.cancel.load(Ordering::Relaxed) => Err(DepartError::Cancelled),
            Message::Prepared(prepared) => Ok(Halt::Prepared(sealed, prepared)),
            Message::Failed { reason } => Err(DepartError::Failed(reason)),
            other => Err(DepartError::OutOfTurn(other.name())),
        }
    }

    /// Tells the destination to run the guest, and finds out whether it does.
    pub(super) fn commit(&mut self) -> Result<(SourceDuty, Ran), DepartError> {
        self.side = self.side.commit();
        let silence = match tell(&mut self.control, self.session) {
            Ok(ran) => {
                (self.side, _) = self.side.hear(Standing::Running);
                return Ok((SourceDuty::End, ran));
            }
            Err(error) => error,
        };
        tracing::warn!(error = %silence, "the destination fell silent after the commit and is asked what it did");
        let until = Instant::now() + self.options.ask_for;
        loop {
            let asked = inquire(self.to, self.session).and_then(|(standing, mut link)| {
                let (side, duty) = self.side.hear(standing);
                self.side = side;
                match duty {
                    SourceDuty::CommitAgain => {
                        let ran = tell(&mut link, self.session)?;
                        (self.side, _) = self.side.hear(Standing::Running);
                        Ok(Some((SourceDuty::End, ran)))
                    }
                    SourceDuty::End | SourceDuty::RunOn => Ok(Some((duty, Ran::default()))),
                    SourceDuty::Ask => Ok(None),
                }
            });
            match asked {
                Ok(Some(decided)) => return Ok(decided),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the destination cannot be asked"),
            }
            if Instant::now() >= until {
                return Err(DepartError::Silent(silence.to_string()));
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    pub(super) fn conclude(
        &mut self,
        downtime: Duration,
        total: Duration,
        prepared: Prepared,
        resume: Duration,
    ) {
        let report = &mut self.report;
        report.status = Status::Completed;
        if let Some(throttle) = self.throttle.as_ref().filter(|throttle| throttle.is_engaged()) {
            report.throttle = Throttled::of(throttle, report.throttle.pages_per_second);
        }
        report.total_time = milliseconds(total);
        report.downtime = milliseconds(downtime);
        let ms = |nanos| milliseconds(Duration::from_nanos(nanos));
        let parts = &mut report.downtime_breakdown;
        (parts.digest, parts.load, parts.resume) =
            (ms(prepared.digest), ms(prepared.load), milliseconds(resume));
        let known = parts.kick
            + parts.save
            + parts.harvest
            + parts.pages
            + parts.audit
            + parts.source_digest
            + parts.digest
            + parts.load
            + parts.resume;
        // Durations alone cross the wire, so that the two clocks need not agree.
        parts.transfer = (report.downtime - known).max(0.0);
        let seconds = (report.total_time / 1e3).max(1e-9);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        {
            report.ram.mbps = report.ram.transferred as f64 * 8.0 / 1e6 / seconds;
        }
        report.ram.remaining = 0;
    }
}

/// When the guest ran at the destination.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ran {
    /// After it had been told to.
    pub(super) resume: Duration,
    /// Before that was heard here.
    pub(super) since: Duration,
}

/// Commits, and waits for the word that the guest runs.
fn tell(link: &mut Link, session: crate::wire::Session) -> Result<Ran, DepartError> {
    let told = Instant::now();
    Message::Commit { session }.send(link)?;
    match Message::receive(link)? {
        Message::Running { resume, since } => {
            let [resume, since] = [resume, since].map(Duration::from_nanos);
            // Whatever the destination says, the guest has not run there before it was told to.
            Ok(Ran { resume, since: since.min(told.elapsed()) })
        }
        other => Err(DepartError::OutOfTurn(other.name())),
    }
}

/// Measures one step after the other.
pub(super) struct Lap(pub(super) Instant);

impl Lap {
    /// Milliseconds since the last lap.
    pub(super) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        milliseconds(now - std::mem::replace(&mut self.0, now))
    }
}
