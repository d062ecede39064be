//! A vCPU of a small guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use ringmark_dirty::RingMemory;
use ringmark_kvm::{Exit, Kick, Vcpu};

use crate::error::During;
use crate::guest::{Shared, arch};
use crate::{Privilege, ProbeError, Program};

/// Why a vCPU came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its program is at its end.
    Done,
    /// Its dirty ring is full.
    RingFull,
    /// It was kicked, or a signal came.
    Interrupted,
}

/// A vCPU of a small guest, with a hold on the guest's memory.
#[derive(Debug)]
pub struct Processor {
    // The vCPU goes before the memory.
    vcpu: Vcpu,
    privilege: Privilege,
    shared: Arc<Shared>,
}

impl Processor {
    pub(crate) const fn new(vcpu: Vcpu, privilege: Privilege, shared: Arc<Shared>) -> Self {
        Self { vcpu, privilege, shared }
    }

    /// The memory of its ring, where there are rings.
    #[must_use]
    pub fn ring_memory(&self) -> Option<Arc<dyn RingMemory>> {
        self.vcpu.ring_memory()
    }

    /// What takes it out of the guest.
    #[must_use]
    pub fn kick_handle(&self) -> Kick {
        self.vcpu.kick_handle()
    }

    /// Puts it to the start of `program`.
    ///
    /// # Errors
    /// Where KVM refuses.
    pub fn start(&mut self, program: Program) -> Result<(), ProbeError> {
        self.settle()?;
        arch::start(&mut self.vcpu, self.shared.ram(), program, self.privilege)
            .during("setting a vCPU's registers")
    }

    /// Finishes what the last exit left pending, which may write guest memory.
    ///
    /// # Errors
    /// Where KVM refuses, or there is more than a small guest's program does.
    pub fn settle(&mut self) -> Result<(), ProbeError> {
        match self.vcpu.complete_pending().during("KVM_RUN")? {
            Exit::Interrupted => Ok(()),
            other => Err(ProbeError::Left(format!("{other:?}"))),
        }
    }

    /// `KVM_RUN`, once.
    ///
    /// # Errors
    /// Where KVM refuses, or the guest does what its program does not.
    pub fn run(&mut self) -> Result<Step, ProbeError> {
        arch::step(self.vcpu.run().during("KVM_RUN")?).map_err(ProbeError::Left)
    }

    /// Runs its program to the end, calling `full` at each full ring; how often that was.
    ///
    /// # Errors
    /// As [`run`](Self::run), and what `full` gives; [`ProbeError::Timeout`] after `limit`.
    pub fn finish(
        &mut self,
        limit: Duration,
        mut full: impl FnMut() -> Result<(), ProbeError>,
    ) -> Result<u32, ProbeError> {
        let watch = Watch::start(self.kick_handle(), limit)?;
        let mut times = 0;
        loop {
            let step = self.run()?;
            if watch.is_over() {
                return Err(ProbeError::Timeout(limit));
            }
            match step {
                Step::Done => return Ok(times),
                Step::RingFull => {
                    times += 1;
                    full()?;
                }
                Step::Interrupted => {}
            }
        }
    }
}

/// Kicks a vCPU again and again once its time is over, until it is dropped.
struct Watch {
    over: Arc<AtomicBool>,
    _running: Sender<()>,
}

/// Between two kicks, should the first be taken for another's.
const AGAIN: Duration = Duration::from_millis(100);

impl Watch {
    fn start(kick: Kick, limit: Duration) -> Result<Self, ProbeError> {
        let (running, ended) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        thread::Builder::new().name("ringmark-watch".into()).spawn(move || {
            let mut wait = limit;
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::SeqCst);
                // A full queue of signals: the next try finds it shorter.
                let _ = kick.kick();
                wait = AGAIN;
            }
        })?;
        Ok(Self { over, _running: running })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}
