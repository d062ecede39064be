//! The threads that write guest memory, and the gate at which they stand.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;
use ringmark_dirty::SlotId;
use ringmark_track::{BoxError, CollectError, MonitorLog, RingFull, Vcpus};

use super::board::{Board, Cpu, Stop};

/// How long a thread may take to the gate.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a drain that an injected fault refuses is tried again.
const DRAINS: u32 = 100;

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    quit: bool,
    alive: usize,
    parked: usize,
    failed: Option<String>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands while a stop is wanted; `open` runs before the caller goes on, under the lock, so that no later kick is
    /// lost. Whether it is to go on.
    fn pass(&self, open: impl FnOnce()) -> bool {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        while state.stop && !state.quit {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked -= 1;
        open();
        !state.quit
    }

    fn leave(&self, ended: Result<(), BoxError>) {
        let mut state = self.lock();
        state.alive -= 1;
        if let Err(error) = ended {
            state.failed.get_or_insert(error.to_string());
        }
        self.changed.notify_all();
    }
}

/// vCPU threads, and one of a device of the monitor's. They end when it is dropped.
pub(crate) struct Crew {
    gate: Arc<Gate>,
    kicks: Vec<Box<dyn Fn() + Send + Sync>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Every thread stands until the first [`resume`](Vcpus::resume).
    pub(crate) fn start(
        board: &Arc<dyn Board>,
        cpus: Vec<(Box<dyn Cpu>, Option<RingFull>)>,
        log: &MonitorLog,
        rng: &mut Rng,
    ) -> Result<Self, BoxError> {
        let gate = Arc::new(Gate::default());
        gate.lock().stop = true;
        let kicks = cpus.iter().map(|(cpu, _)| cpu.kick()).collect();
        let mut crew = Self { gate, kicks, threads: Vec::new() };
        for (mut cpu, ring) in cpus {
            crew.spawn(move |gate| run_cpu(&mut *cpu, ring.as_ref(), gate))?;
        }
        let (board, log, mut rng) = (Arc::clone(board), log.clone(), rng.fork());
        crew.spawn(move |gate| run_device(&*board, &log, &mut rng, gate))?;
        Ok(crew)
    }

    fn spawn(
        &mut self,
        body: impl FnOnce(&Gate) -> Result<(), BoxError> + Send + 'static,
    ) -> Result<(), BoxError> {
        let gate = Arc::clone(&self.gate);
        gate.lock().alive += 1;
        let spawned = thread::Builder::new().name("ringmark-guest".into()).spawn(move || {
            let ended = body(&gate);
            gate.leave(ended);
        });
        match spawned {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                self.gate.lock().alive -= 1;
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Vcpus for Crew {
    fn stop(&mut self) -> Result<(), BoxError> {
        let mut state = self.gate.lock();
        state.stop = true;
        // After the wish is set: a vCPU that misses the kick sees the wish, and the other way round.
        self.kicks.iter().for_each(|kick| kick());
        while state.parked < state.alive {
            let (waited, late) =
                self.gate.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = waited;
            if late.timed_out() {
                return Err("a vCPU does not leave the guest".into());
            }
        }
        state.failed.clone().map_or(Ok(()), |error| Err(error.into()))
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.gate.lock().stop = false;
        self.gate.changed.notify_all();
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.gate.lock().quit = true;
        self.gate.changed.notify_all();
        self.kicks.iter().for_each(|kick| kick());
        for thread in self.threads.drain(..) {
            // A panic has been printed, and the gate never saw the thread leave: the next stop says so.
            let _ = thread.join();
        }
    }
}

fn run_cpu(cpu: &mut dyn Cpu, ring: Option<&RingFull>, gate: &Gate) -> Result<(), BoxError> {
    while gate.pass(|| cpu.unkick()) {
        loop {
            match cpu.run()? {
                Stop::RingFull => drain(ring)?,
                Stop::Interrupted => {}
            }
            let state = gate.lock();
            if state.stop || state.quit {
                break;
            }
        }
        cpu.settle()?;
    }
    Ok(())
}

/// A reset that an injected fault refuses is tried again, as a vCPU's thread is to do.
fn drain(ring: Option<&RingFull>) -> Result<(), BoxError> {
    let ring = ring.ok_or("a full ring where there is none")?;
    for _ in 0..DRAINS {
        match ring.drain() {
            Ok(_) => return Ok(()),
            Err(CollectError::Reset(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err("a full ring cannot be drained".into())
}

/// A device that writes guest memory and marks it.
fn run_device(board: &dyn Board, log: &MonitorLog, rng: &mut Rng, gate: &Gate) -> Result<(), BoxError> {
    let slots: Vec<(SlotId, u64)> = board.ram().slots().iter().map(|slot| (slot.id, slot.npages)).collect();
    while gate.pass(|| {}) {
        loop {
            let (slot, npages) = slots[rng.usize(..slots.len())];
            monitor_write(board, log, slot, rng.u64(..npages), rng.u64(..))?;
            if rng.u8(..16) == 0 {
                thread::sleep(Duration::from_micros(rng.u64(..500)));
            }
            let state = gate.lock();
            if state.stop || state.quit {
                break;
            }
        }
    }
    Ok(())
}

/// A write of the monitor's, marked when it is complete.
pub(crate) fn monitor_write(
    board: &dyn Board,
    log: &MonitorLog,
    slot: SlotId,
    page: u64,
    value: u64,
) -> Result<(), BoxError> {
    let offset = page * log.page_size().bytes() + 64;
    let _guard = log.slot(slot).ok_or("no log for a slot")?.write(offset, 8);
    let pages = board.ram().pages(slot).ok_or("no memory for a slot")?;
    pages.write(offset, value).ok_or_else(|| "a page outside of its slot".into())
}
