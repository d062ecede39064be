//! A rolling history: checkpoints by the clock, and the store kept within its policy.

mod pace;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmark_care::keep::KeepPolicy;
use ringmark_control::{CheckpointRequest, Code, Schedule as Report, Service};

use crate::args::ScheduleArgs;
use crate::service::{MachineService, milliseconds};
use pace::{Change, Pace};

/// The thread that takes checkpoints by the clock. Dropped, it finishes the one it is taking.
#[derive(Debug)]
pub(crate) struct Schedule {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Schedule {
    /// Begins with a checkpoint after one interval; `None` if no schedule is asked for.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub(crate) fn start(args: &ScheduleArgs, service: &Arc<MachineService>) -> std::io::Result<Option<Self>> {
        let Some(every) = args.checkpoint_every else { return Ok(None) };
        let (stop, stopped) = channel();
        let mut work = Work {
            service: Arc::clone(service),
            keep: args.keep.clone(),
            pace: Pace::new(every),
            report: Report {
                every_ms: milliseconds(every),
                keep: args.keep.as_ref().map(ToString::to_string),
                ..Report::default()
            },
        };
        work.publish();
        let thread = thread::Builder::new().name("schedule".into()).spawn(move || {
            let mut due = Instant::now() + every;
            // A machine that has ended drops the sender.
            while let Err(RecvTimeoutError::Timeout) =
                stopped.recv_timeout(due.saturating_duration_since(Instant::now()))
            {
                due += work.turn(due);
            }
        })?;
        Ok(Some(Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so, and there is nothing left for it to do.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Work {
    service: Arc<MachineService>,
    keep: Option<KeepPolicy>,
    pace: Pace,
    report: Report,
}

impl Work {
    /// Takes the checkpoint that was due at `due`, keeps the store within its policy, and returns after how long from
    /// `due` the next one is to be taken.
    fn turn(&mut self, due: Instant) -> Duration {
        let taken = self.service.checkpoint(&CheckpointRequest::default(), &mut |_| {});
        match taken {
            Ok(_) => {
                self.report.taken += 1;
                self.prune();
            }
            // A machine that has just ended is no failure of its history.
            Err(failure) if failure.code == Code::WrongState => {}
            Err(failure) => {
                self.report.failed += 1;
                eprintln!(
                    "ringmark: a scheduled checkpoint failed: {failure}; the next one contains its pages"
                );
                self.report.last_failure = Some(failure.to_string());
            }
        }
        let (next, change) = self.pace.observe(due.elapsed());
        self.publish();
        match change {
            Some(Change::Behind) => eprintln!(
                "ringmark: checkpoints every {:.0} ms fall behind; the shortest interval that this guest and host \
                 sustain is about {:.0} ms",
                self.report.every_ms,
                self.report.shortest_interval_ms.unwrap_or_default(),
            ),
            Some(Change::CaughtUp) => {
                eprintln!("ringmark: checkpoints every {:.0} ms keep up again", self.report.every_ms);
            }
            None => {}
        }
        next
    }

    fn prune(&mut self) {
        let Some(keep) = &self.keep else { return };
        match self.service.prune(keep) {
            Ok(removed) => self.report.pruned += removed,
            Err(what) => {
                eprintln!(
                    "ringmark: old images could not be removed: {what}; they stay, and it is tried again"
                );
                self.report.last_failure = Some(what);
            }
        }
    }

    fn publish(&mut self) {
        self.report.missed = self.pace.missed();
        self.report.behind = self.pace.is_behind();
        self.report.shortest_interval_ms = self.pace.shortest().map(milliseconds);
        self.service.set_schedule(self.report.clone());
    }
}
