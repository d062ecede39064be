//! Every order of events: the tracker against the engine, step by step, on one thread.
//!
//! Writers of every kind (vCPUs, the monitor, the kernel with no vCPU running) and the faults of real kernels have a few
//! steps each; the tracker's user takes a base and two increments, the first of which may fail. Wherever one of them
//! could be interrupted, also in the midst of an ioctl that the tracker makes, any of the others may go on. Each schedule
//! is played once, from a new VM. After every cut that became durable the image has to be memory as it was at the cut, and
//! the engine, which knows the truth, must not know of a page that nobody will ever hear of.

mod board;
mod guest;
mod schedule;
mod watched;

use std::sync::Arc;
use std::time::Instant;

use ringmark_dirty::DirtyPages;
use ringmark_engine::Profile;

use crate::collector::Collector;
use crate::{Cut, Sealed, Tracker, Vcpus, Wish};
use board::{Board, Ram};
use guest::{Shared, Step, Turn};
use schedule::Schedule;
use watched::Watched;

/// What is played.
#[derive(Clone)]
struct Scenario {
    name: &'static str,
    profile: Profile,
    wish: Wish,
    pages: u64,
    /// Each vCPU's steps.
    vcpus: Vec<Vec<Step>>,
    /// The steps of each of the others.
    others: Vec<Vec<Step>>,
    /// The page that saving the devices writes.
    table: Option<u64>,
    /// Live rounds of the first increment.
    rounds: u32,
    /// Whether faults are played, after which the engine's truth does not know what was reported as suspect.
    faults: bool,
}

/// What a consumer of epochs holds.
struct Image {
    durable: Vec<u64>,
    staged: Vec<Option<u64>>,
    /// Memory at the last cut.
    cut: Vec<u64>,
}

impl Image {
    fn stage(&mut self, ram: &Ram, pages: &DirtyPages, mut between: impl FnMut()) {
        for (_, page) in pages.iter() {
            let at = usize::try_from(page).unwrap_or(usize::MAX);
            self.staged[at] = Some(ram.get(page));
            between();
        }
    }

    fn settle(&mut self, durable: bool) {
        for (held, staged) in self.durable.iter_mut().zip(&mut self.staged) {
            if let Some(value) = staged.take().filter(|_| durable) {
                *held = value;
            }
        }
    }
}

struct Play<'s> {
    scenario: &'s Scenario,
    world: Shared,
    vm: ringmark_engine::Vm,
    ram: Arc<Ram>,
    tracker: Tracker,
    image: Image,
}

impl<'s> Play<'s> {
    fn new(scenario: &'s Scenario, ram: &Arc<Ram>, schedule: Schedule) -> Self {
        let board = Board::new(&scenario.profile, scenario.wish, ram);
        let (vm, method, slots) = (board.vm.clone(), board.method, board.slots.clone());
        let source = board.log.source();
        let vcpus: Vec<_> = (0..).zip(&scenario.vcpus).map(|(id, steps)| (board.vcpu(id), steps)).collect();
        let rings: Vec<_> = vcpus.iter().filter_map(|(vcpu, _)| vcpu.ring_memory()).collect();
        let world = Shared::new(board, schedule);
        let watched = Watched { vm: vm.clone(), world: world.clone(), rings };
        let mut tracker = Tracker::with_collector(Arc::new(watched), slots, method, Collector::here)
            .unwrap_or_else(|error| panic!("{error}"));
        tracker.add_source(Box::new(source)).unwrap_or_else(|error| panic!("{error}"));
        vm.set_strict(true);
        tracker.arm().unwrap_or_else(|error| panic!("{error}"));
        for (id, (vcpu, steps)) in (0..).zip(vcpus) {
            let ring = vcpu.ring_memory().map(|memory| tracker.add_ring(id, memory));
            let ring = ring.transpose().unwrap_or_else(|error| panic!("{error}"));
            world.lock().add(Some((vcpu, ring)), steps.clone());
        }
        for steps in &scenario.others {
            world.lock().add(None, steps.clone());
        }
        let none = vec![0; ram.copy().len()];
        let image = Image { staged: vec![None; none.len()], durable: none.clone(), cut: none };
        Self { scenario, world, vm, ram: Arc::clone(ram), tracker, image }
    }

    /// A base without a word from anybody, an increment in which anything may happen, and one that takes the rest.
    fn run(&mut self) -> Result<(), String> {
        self.epoch(0, true)?;
        self.world.turn(Turn::Outside);
        let durable = self.world.lock().schedule.choose(2) == 0;
        self.epoch(self.scenario.rounds, durable)?;
        self.world.turn(Turn::Outside);
        self.epoch(0, true)?;
        self.world.finish();
        self.epoch(0, true)?;
        assert!(self.world.lock().is_done());
        Ok(())
    }

    fn epoch(&mut self, rounds: u32, durable: bool) -> Result<(), String> {
        let Self { world, tracker, image, ram, vm, scenario } = self;
        let mut epoch = tracker.open().map_err(|error| error.to_string())?;
        for _ in 0..rounds {
            let pages = epoch.round().map_err(|error| error.to_string())?;
            image.stage(ram, &pages, || world.turn(Turn::Outside));
        }
        let stopped = epoch.cut().stop(world.clone()).map_err(|error| error.to_string())?;
        let saved = stopped.save_devices(|world| {
            if let Some(page) = scenario.table {
                world.lock().kernel_write(page);
            }
            Ok(())
        });
        let (saved, ()) = saved.map_err(|error| error.to_string())?;
        let sealed = saved.seal().map_err(|error| error.to_string())?;
        image.stage(ram, sealed.pages(), || {});
        image.cut = ram.copy();
        if !scenario.faults {
            told_truth(vm, &sealed)?;
        }
        let epoch = sealed.resume().map_err(|error| error.to_string())?;
        // The data is on its way; the guest runs.
        world.turn(Turn::Outside);
        if durable {
            epoch.commit();
        } else {
            drop(epoch);
        }
        image.settle(durable);
        match durable.then(|| (0..).zip(&image.durable).zip(&image.cut).find(|((_, had), has)| had != has)) {
            Some(Some(((page, had), has))) => {
                Err(format!("page {page} is lost: the image has {had}, the cut {has}"))
            }
            _ => Ok(()),
        }
    }
}

/// Asks the engine, at a cut.
fn told_truth<V: Vcpus>(vm: &ringmark_engine::Vm, sealed: &Cut<'_, Sealed<V>>) -> Result<(), String> {
    vm.declare_complete();
    if let Some(violation) = vm.take_violations().first() {
        return Err(violation.to_string());
    }
    match vm.unreported().first().filter(|(slot, page)| !sealed.epoch_pages().contains(*slot, *page)) {
        Some((slot, page)) => {
            Err(format!("page {page} of memslot {slot} is lost: written and never reported"))
        }
        None => Ok(()),
    }
}

/// Plays every schedule.
fn explore(scenario: &Scenario) {
    let begun = Instant::now();
    let ram = Ram::new(scenario.pages);
    let mut played = 0_u64;
    let mut schedule = Schedule::first();
    loop {
        let mut play = Play::new(scenario, &ram, schedule);
        let outcome = play.run();
        let world = play.world.clone();
        drop(play);
        schedule = world.lock().end();
        played += 1;
        if let Err(lost) = outcome {
            panic!("{}: {lost}; schedule {played}: {:?}", scenario.name, schedule.decisions());
        }
        if !schedule.advance() {
            break;
        }
    }
    eprintln!("EXPLORED {} | {played} | {:.1} s", scenario.name, begun.elapsed().as_secs_f64());
}

fn scenario(name: &'static str, profile: Profile, wish: Wish) -> Scenario {
    Scenario {
        name,
        profile,
        wish,
        pages: 4,
        vcpus: Vec::new(),
        others: Vec::new(),
        table: None,
        rounds: 1,
        faults: false,
    }
}

const RING: Wish = Wish::Ring { entries: Some(256) };
const A_WRITE: [Step; 3] = [Step::Begin(1), Step::Write(1), Step::End];

/// Two vCPUs that share pages, and the monitor between them.
#[test]
fn rings() {
    let mut it = scenario("two vCPUs and the monitor, dirty rings", Profile::x86(), RING);
    it.vcpus = vec![vec![Step::Store(0), Step::Store(1)], vec![Step::Store(0)]];
    it.others = vec![A_WRITE.to_vec()];
    explore(&it);
}

/// The same for longer.
#[test]
fn rings_for_longer() {
    let mut it = scenario("two vCPUs and the monitor, dirty rings, one store more", Profile::x86(), RING);
    it.vcpus = vec![vec![Step::Store(0), Step::Store(1), Step::Store(0)], vec![Step::Store(1)]];
    it.others = vec![A_WRITE.to_vec()];
    explore(&it);
}

/// A vCPU, the kernel's writes with none, and tables that are written at the cut.
#[test]
fn rings_with_a_backup_bitmap() {
    let mut it = scenario("a vCPU, the kernel and tables, rings and backup bitmap", Profile::arm64(), RING);
    it.vcpus = vec![vec![Step::Store(0), Step::Store(2), Step::Store(0)]];
    it.others = vec![vec![Step::Kernel(2), Step::Kernel(0)]];
    it.table = Some(2);
    explore(&it);
}

#[test]
fn bitmaps() {
    let mut it =
        scenario("a vCPU, the monitor and tables, stand-alone bitmap", Profile::arm64(), Wish::Bitmap);
    it.vcpus = vec![vec![Step::Store(0), Step::Store(1), Step::Store(0), Step::Store(1)]];
    it.others = vec![A_WRITE.to_vec()];
    it.table = Some(2);
    explore(&it);
}

/// The ring fills: the vCPU leaves the guest before its store and hands the ring over.
#[test]
fn rings_that_fill() {
    let mut it = scenario("a ring that fills", Profile::x86(), RING);
    it.vcpus =
        vec![vec![Step::Fill(3, 190), Step::Store(0), Step::Store(1), Step::Store(0)], vec![Step::Store(0)]];
    explore(&it);
}

/// The kernel's reset is cut short by a signal and leaves pages writable that it has counted.
#[test]
fn resets_cut_short() {
    let mut it = scenario("resets cut short by a signal", Profile::x86(), RING);
    it.vcpus = vec![vec![Step::Store(0), Step::Store(1), Step::Store(0)]];
    it.others = vec![vec![Step::Signal, Step::Signal]];
    it.faults = true;
    explore(&it);
}

/// The kernel lets a ring overflow: entries are overwritten, and the two ends stop agreeing.
#[test]
fn rings_that_overflow() {
    let mut it = scenario("rings that overflow", Profile::x86(), RING);
    it.vcpus = vec![vec![Step::Store(0), Step::Fill(3, 255), Step::Store(1)]];
    it.others = vec![vec![Step::Unchecked(270)]];
    it.faults = true;
    explore(&it);
}
