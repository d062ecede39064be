//! One small VM's life.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use ringmark_probe::{Fault, Faulty, Storm};
use ringmark_track::{BoxError, Event, Memory as _, MonitorLog, OpenEpoch, Tracker, Vcpus};

use super::board::Board;
use super::consumer::Consumer;
use super::crew::{Crew, monitor_write};
use super::engine::EngineBoard;
use super::kvm::KvmBoard;
use super::shape::Shape;
use crate::Hypervisor;
use crate::failure::{OrTrouble, Trouble};
use crate::tally::Tally;

/// Between two rounds of signals at every thread.
const STORM: Duration = Duration::from_micros(300);
/// Most time between two rounds of an epoch, in microseconds.
const ROUND: u64 = 2000;
/// Most time that a slow reset takes, in microseconds.
const SLOW: u64 = 5000;

struct Life<'a> {
    board: Arc<dyn Board>,
    faulty: Arc<Faulty>,
    log: MonitorLog,
    consumer: Consumer,
    /// Of this step alone: what a step draws does not depend on how the ones before it ended.
    rng: Rng,
    tally: &'a mut Tally,
    /// No fault is injected, and the VM's own knowledge of lost pages counts too.
    is_clean: bool,
    /// A slot may have been left unprotected, to be protected again at whatever harvest comes next.
    is_unprotected: bool,
}

/// Lives once, and counts its steps in `step`.
pub(crate) fn life(
    hypervisor: Hypervisor,
    rng: &mut Rng,
    tally: &mut Tally,
    step: &mut u64,
) -> Result<(), Trouble> {
    let shape = Shape::draw(rng);
    let board: Arc<dyn Board> = match hypervisor {
        Hypervisor::Engine => Arc::new(EngineBoard::new(&shape, rng).or_trouble("making a VM")?),
        Hypervisor::Kvm => Arc::new(KvmBoard::new(&shape, rng).or_trouble("making a VM")?),
    };
    let is_clean = rng.u8(..4) == 0;
    let faulty = Arc::new(Faulty::new(board.vm(), board.interrupt()));
    let slots = board.ram().slots().clone();
    let log = MonitorLog::new(&slots, board.ram().page_size());
    let mut tracker =
        Tracker::new(Arc::clone(&faulty) as _, slots, board.method()).or_trouble("making a tracker")?;
    tracker.add_source(Box::new(log.source())).or_trouble("adding the monitor's log")?;
    let mut cpus = Vec::new();
    for id in 0..shape.vcpus {
        let cpu = board.cpu(id, rng).or_trouble("making a vCPU")?;
        let ring = match cpu.ring_memory() {
            Some(ring) => {
                faulty.add_ring(Arc::clone(&ring));
                Some(tracker.add_ring(id, ring).or_trouble("adding a ring")?)
            }
            None => None,
        };
        cpus.push((cpu, ring));
    }
    let mut crew = Crew::start(&board, cpus, &log, rng).or_trouble("starting vCPUs")?;
    let is_stormy = !is_clean && rng.u8(..4) == 0;
    let storm = is_stormy.then(|| Storm::start(STORM)).transpose().or_trouble("starting signals")?;
    let consumer = Consumer::new(board.ram());
    let mut life =
        Life { board, faulty, log, consumer, rng: rng.fork(), tally, is_clean, is_unprotected: false };
    for part in 0..rng.u32(1..=3) {
        if part > 0 {
            life.change_slots(&mut tracker, &mut crew)?;
        }
        life.consumer.forget();
        tracker.arm().or_trouble("arming the tracker")?;
        crew.resume().or_trouble("resuming the guest")?;
        for _ in 0..rng.u32(4..12) {
            *step += 1;
            life.rng = rng.fork();
            life.epoch(&mut tracker, &mut crew)?;
            life.account(&tracker)?;
        }
        // What has not happened yet is not to hit the tracker's end.
        life.faulty.clear();
    }
    drop(crew);
    let Life { board, tally, .. } = life;
    tally.faults("signal_storm", u64::from(storm.is_some()));
    tally.faults("late_flush", board.late_flushes());
    tally.faults("full_ring", tracker.stats().read().map_or(0, |stats| stats.ring_full));
    Ok(())
}

impl Life<'_> {
    /// Ends tracking, deletes every slot and makes it anew.
    fn change_slots(&mut self, tracker: &mut Tracker, crew: &mut Crew) -> Result<(), Trouble> {
        crew.stop().or_trouble("stopping the guest")?;
        tracker.disarm().or_trouble("disarming the tracker")?;
        self.board.recreate_slots().or_trouble("making slots anew")?;
        self.tally.fault("slots_changed");
        Ok(())
    }

    /// One epoch, from its opening to whatever end it takes.
    fn epoch(&mut self, tracker: &mut Tracker, crew: &mut Crew) -> Result<(), Trouble> {
        let mut epoch = tracker.open().or_trouble("opening an epoch")?;
        for _ in 0..self.rng.u32(..4) {
            thread::sleep(Duration::from_micros(self.rng.u64(..ROUND)));
            self.inject();
            match epoch.round() {
                Ok(pages) => self.consumer.capture(self.board.ram(), &pages)?,
                Err(error) => self.excuse(&error)?,
            }
        }
        if self.rng.u8(..8) == 0 {
            drop(epoch);
            self.consumer.roll_back();
            self.tally.fault("abandoned_epoch");
            return Ok(());
        }
        self.inject();
        self.cut(epoch, crew)
    }

    fn cut(&mut self, epoch: OpenEpoch<'_>, crew: &mut Crew) -> Result<(), Trouble> {
        let refuses = self.rng.u8(..16) == 0;
        let stopped = epoch.cut().stop(Unwilling { crew, refuses });
        let stopped = match stopped {
            Ok(stopped) => stopped,
            Err(_) if refuses => return self.give_up("refused_stop"),
            Err(error) => return Err(Trouble::unexpected("stopping the guest")(&error)),
        };
        let fails = self.rng.u8(..12) == 0;
        let saved = stopped.save_devices(|_| self.save_devices(fails));
        let (saved, ()) = match saved {
            Ok(saved) => saved,
            Err(_) if fails => return self.give_up("failed_device_save"),
            Err(error) => return Err(Trouble::unexpected("saving devices")(&error)),
        };
        let sealed = match saved.seal() {
            Ok(sealed) => sealed,
            Err(error) => {
                self.excuse(&error)?;
                return self.give_up("failed_seal");
            }
        };
        self.consumer.capture(self.board.ram(), sealed.pages())?;
        if self.is_clean
            && let Some((slot, page)) = self.board.lost().first().copied()
        {
            let how = "the hypervisor knows of a write that no log has".to_owned();
            return Err(Trouble::Escape { slot, page, how });
        }
        self.tally.pages += self.consumer.verify(self.board.ram(), sealed.epoch_pages())?;
        let epoch = match sealed.resume() {
            Ok(epoch) => epoch,
            // Protected again by a periodic harvest after the seal, the slot is reported as a whole: late, and so refused.
            Err(_) if self.is_unprotected => return self.give_up("failed_seal"),
            Err(error) => return Err(Trouble::unexpected("resuming the guest")(&error)),
        };
        if self.rng.u8(..6) == 0 {
            drop(epoch);
            return self.give_up("failed_write");
        }
        epoch.commit();
        self.consumer.commit();
        Ok(())
    }

    /// Devices save their tables: by the kernel with no vCPU running, and by the monitor.
    fn save_devices(&mut self, fails: bool) -> Result<(), BoxError> {
        let pages = self.board.ram().slots().total_pages();
        for _ in 0..self.rng.u32(..5) {
            self.board.kernel_write(self.rng.u64(..pages), self.rng.u64(..))?;
        }
        let page = self.rng.u64(..pages);
        if let Some((slot, offset)) = self.board.ram().locate(page) {
            monitor_write(&*self.board, &self.log, slot, offset, self.rng.u64(..))?;
        }
        if fails { Err("a table lies outside of memory".into()) } else { Ok(()) }
    }

    /// Whatever was copied in this epoch is void; the next one brings it again.
    fn give_up(&mut self, kind: &'static str) -> Result<(), Trouble> {
        self.consumer.roll_back();
        self.tally.fault(kind);
        Ok(())
    }

    /// Lets something happen to one of the next calls, or not.
    fn inject(&mut self) {
        if self.is_clean || self.rng.bool() {
            return;
        }
        let slow = Fault::SlowReset(Duration::from_micros(self.rng.u64(100..SLOW)));
        let has_ring = self.board.method().ring_entries().is_some();
        let faults: &[&[Fault]] = if has_ring {
            &[
                &[Fault::InterruptedReset],
                &[Fault::InterruptedReset, Fault::RefusedFlags],
                &[Fault::ShortCount],
                &[Fault::RefusedReset],
                &[slow],
                &[Fault::FailedDirtyLog],
                &[],
            ]
        } else {
            &[&[Fault::FailedDirtyLog], &[Fault::FailedClear], &[Fault::FailedDirtyLog, Fault::FailedClear]]
        };
        match faults[self.rng.usize(..faults.len())] {
            [] => {
                if let Some(kind) = self.board.play(&mut self.rng) {
                    self.tally.fault(kind);
                }
            }
            chosen => {
                self.is_unprotected |= chosen.contains(&Fault::RefusedFlags);
                chosen.iter().for_each(|&fault| self.faulty.inject(fault));
            }
        }
    }

    /// A refused reset is injected; any other error is trouble.
    fn excuse(&self, error: &dyn std::error::Error) -> Result<(), Trouble> {
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        if !self.is_clean && causes.any(|cause| cause.to_string().contains("KVM_RESET_DIRTY_RINGS")) {
            return Ok(());
        }
        Err(Trouble::unexpected("harvesting")(&error))
    }

    /// Counts what has happened; a clean life on the engine has no event.
    fn account(&mut self, tracker: &Tracker) -> Result<(), Trouble> {
        for fault in self.faulty.take_happened() {
            self.tally.fault(fault.name());
        }
        let events = tracker.events().take();
        let overflows = events.iter().map(|event| match event {
            Event::RingOverflow { times, .. } => *times,
            _ => 0,
        });
        self.tally.faults("ring_overflow", overflows.sum());
        match events.first() {
            Some(event) if self.is_clean && self.board.is_sound() => {
                Err(Trouble::unexpected("tracking without a fault")(event))
            }
            _ => Ok(()),
        }
    }
}

/// vCPUs that may say that they were not stopped.
struct Unwilling<'a> {
    crew: &'a mut Crew,
    refuses: bool,
}

impl Vcpus for Unwilling<'_> {
    fn stop(&mut self) -> Result<(), BoxError> {
        self.crew.stop()?;
        if self.refuses { Err("a vCPU does not answer".into()) } else { Ok(()) }
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.crew.resume()
    }
}
