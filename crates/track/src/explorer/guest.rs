//! Everybody who writes guest memory, step by step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmark_engine::{Exit, Vcpu, Writer};

use super::board::{Board, SLOT};
use super::schedule::Schedule;
use crate::{BoxError, RingFull, Vcpus, WriteGuard};

/// What a writer does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A vCPU stores to a page.
    Store(u64),
    /// A vCPU ioctl writes a page so many times, each with an entry of its own.
    Fill(u64, u32),
    /// The monitor begins to write a page, writes, and has written.
    Begin(u64),
    Write(u64),
    End,
    /// The kernel writes a page with no vCPU running.
    Kernel(u64),
    /// The kernel's next reset is interrupted by a signal.
    Signal,
    /// Guest code is emulated in batches: so many stores go without a look at the ring.
    Unchecked(u32),
}

/// One writer.
struct Actor {
    steps: Vec<Step>,
    next: usize,
    vcpu: Option<(Vcpu, Option<RingFull>)>,
    /// The vCPU left the guest for its full ring.
    full: bool,
    guard: Option<WriteGuard>,
}

/// All of them, and who decides.
pub(super) struct World {
    board: Board,
    actors: Vec<Actor>,
    pub(super) schedule: Schedule,
    written: u64,
    stopped: bool,
    /// A signal is to come in the next reset.
    pub(super) signal: bool,
}

/// Where the rest of the world gets its turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Between two steps of the tracker's user.
    Outside,
    /// In the midst of a call of the tracker, whose thread is at work.
    Inside,
}

#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(board: Board, schedule: Schedule) -> Self {
        let world = World { board, actors: Vec::new(), schedule, written: 0, stopped: false, signal: false };
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the others make any number of steps, in any order.
    pub(super) fn turn(&self, turn: Turn) {
        loop {
            let mut world = self.lock();
            let ready: Vec<usize> = (0..world.actors.len()).filter(|&at| world.may_step(at, turn)).collect();
            let chosen = world.schedule.choose(ready.len() + 1);
            let Some(&at) = chosen.checked_sub(1).and_then(|chosen| ready.get(chosen)) else { return };
            self.step(world, at);
        }
    }

    /// Lets the others make all the steps they have left, first come first served.
    pub(super) fn finish(&self) {
        loop {
            let world = self.lock();
            let Some(at) = (0..world.actors.len()).find(|&at| world.may_step(at, Turn::Outside)) else {
                return;
            };
            self.step(world, at);
        }
    }

    fn step(&self, mut world: MutexGuard<'_, World>, at: usize) {
        let drain = world.actors[at].full.then(|| world.actors[at].vcpu.as_ref()?.1.clone()).flatten();
        match drain {
            // The collector makes ioctls, in which the others get their turn.
            Some(ring) => {
                drop(world);
                if let Err(error) = ring.drain() {
                    panic!("{error}; {:?}", self.lock().schedule.decisions());
                }
                self.lock().actors[at].full = false;
            }
            None => world.step(at),
        }
    }
}

impl World {
    pub(super) fn add(&mut self, vcpu: Option<(Vcpu, Option<RingFull>)>, steps: Vec<Step>) {
        self.actors.push(Actor { steps, next: 0, vcpu, full: false, guard: None });
    }

    /// Lets go of everybody, who hold the tracker that holds the world; returns the schedule.
    pub(super) fn end(&mut self) -> Schedule {
        self.actors.clear();
        std::mem::replace(&mut self.schedule, Schedule::first())
    }

    fn may_step(&self, at: usize, turn: Turn) -> bool {
        let actor = &self.actors[at];
        // A full ring is for the collector, which is one thread; a stopped writer does nothing.
        let able = if actor.full { turn == Turn::Outside } else { actor.next < actor.steps.len() };
        able && !self.stopped
    }

    fn value(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    /// The kernel's write of a table; also what an actor does.
    pub(super) fn kernel_write(&mut self, page: u64) {
        let value = self.value();
        let gpa = self.board.gpa(page);
        if let Err(errno) = self.board.vm.device_write(gpa, &value.to_ne_bytes(), Writer::VgicTable) {
            panic!("{errno}");
        }
    }

    fn step(&mut self, at: usize) {
        let step = self.actors[at].steps[self.actors[at].next];
        let value = self.value();
        let gpa = |page| page * self.board.page_size.bytes();
        let actor = &mut self.actors[at];
        match (step, &mut actor.vcpu) {
            (Step::Store(page), Some((vcpu, _))) => match vcpu.store(gpa(page), &value.to_ne_bytes()) {
                Ok(()) => {}
                Err(Exit::DirtyRingFull) => {
                    // The store has not happened; the instruction is executed again when the ring is drained.
                    actor.full = true;
                    return;
                }
                Err(other) => panic!("{other:?}"),
            },
            (Step::Fill(page, times), Some((vcpu, _))) => {
                for _ in 0..times {
                    if let Err(errno) = vcpu.kvm_write(gpa(page), &value.to_ne_bytes()) {
                        panic!("{errno}");
                    }
                }
            }
            (Step::Begin(page), None) => {
                let log = self.board.log.slot(SLOT).unwrap_or_else(|| unreachable!("the slot is logged"));
                actor.guard = Some(log.write(gpa(page), 8));
            }
            (Step::Write(page), None) => self.board.ram.set(page, value),
            (Step::End, None) => actor.guard = None,
            (Step::Kernel(page), None) => self.kernel_write(page),
            (Step::Signal, None) => self.signal = true,
            (Step::Unchecked(stores), None) => self.board.vm.faults().skip_soft_full_checks(stores),
            (step, _) => unreachable!("{step:?} is not this actor's"),
        }
        self.actors[at].next += 1;
    }

    /// Whether an actor is in the midst of a write of the monitor.
    fn is_writing(&self, at: usize) -> bool {
        self.actors[at].guard.is_some()
    }

    pub(super) fn is_done(&self) -> bool {
        self.actors.iter().all(|actor| actor.next == actor.steps.len())
    }
}

/// Stops everybody: vCPUs where they are, the monitor's writers at the end of their write.
impl Vcpus for Shared {
    fn stop(&mut self) -> Result<(), BoxError> {
        let count = self.lock().actors.len();
        for at in 0..count {
            // A vCPU that waits for its full ring is served and then parks; its store comes after the cut.
            if self.lock().actors[at].full {
                self.step(self.lock(), at);
            }
            while self.lock().is_writing(at) {
                self.step(self.lock(), at);
            }
        }
        self.lock().stopped = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        let mut world = self.lock();
        world.stopped = false;
        // The engine looks at the rings when the first vCPU is entered after a cut, before anybody harvests again.
        for (vcpu, _) in world.actors.iter_mut().filter_map(|actor| actor.vcpu.as_mut()) {
            drop(vcpu.enter());
        }
        Ok(())
    }
}
