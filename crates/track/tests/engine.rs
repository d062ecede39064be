//! A guest of running threads on the engine: at every cut the consumer's copy is memory, byte for byte.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use ringmark_dirty::PageSize;
use ringmark_engine::{Exit, Kick, Profile, Vcpu, Writer};
use ringmark_track::{Audit, BoxError, RingFull, Vcpus, Wish};
use support::board::Board;
use support::slot;

/// The bitmap is collected twice in one cut: what the kernel wrote while the guest ran, then what saving devices writes.
#[test]
fn the_backup_bitmap_tells_what_was_written_while_the_guest_ran() {
    let board = Board::new(Profile::arm64(), Wish::Ring { entries: None }, &[64]);
    let mut tracker = board.tracker();
    tracker.arm().unwrap();
    let whole = |tracker: &mut ringmark_track::Tracker| {
        let cut = tracker.open().unwrap().cut().stop(support::Counted::default()).unwrap();
        cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap().resume().unwrap().commit();
    };
    whole(&mut tracker);
    let write = |page| board.vm.device_write(board.gpa(slot(0), page), &[1], Writer::VgicTable).map(drop);
    write(3).unwrap();
    write(4).unwrap();
    let cut = tracker.open().unwrap().cut().stop(support::Counted::default()).unwrap();
    let (cut, running) = cut.collect_backup().unwrap();
    assert_eq!(running, 2);
    let (cut, ()) = cut.save_devices(|_| write(4).and_then(|()| write(5)).map_err(Into::into)).unwrap();
    let cut = cut.seal().unwrap();
    let pages: Vec<_> = cut.pages().iter().map(|(_, page)| page).collect();
    assert_eq!((pages, cut.by_source().bitmap), (vec![3, 4, 5], 3));
    cut.resume().unwrap().commit();
    // Dropped between the two, the pages are the next epoch's.
    write(9).unwrap();
    let cut = tracker.open().unwrap().cut().stop(support::Counted::default()).unwrap();
    drop(cut.collect_backup().unwrap());
    let cut = tracker.open().unwrap().cut().stop(support::Counted::default()).unwrap();
    let cut = cut.save_devices(|_| Ok(())).unwrap().0.seal().unwrap();
    assert!(cut.pages().contains(slot(0), 9));
}

/// A small generator of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    stop: bool,
    quit: bool,
    parked: usize,
}

impl Gate {
    /// Waits while a stop is wanted; `reopened` runs before the caller goes on, under the lock, so no later kick is
    /// lost.
    fn pass(&self, reopened: impl FnOnce()) -> bool {
        let mut state = self.state.lock().unwrap();
        state.parked += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.stop && !state.quit).unwrap();
        state.parked -= 1;
        reopened();
        !state.quit
    }

    fn is_stopping(&self) -> bool {
        self.state.lock().unwrap().stop
    }
}

/// Threads that write guest memory: vCPUs and one device of the monitor.
struct Writers {
    gate: Arc<Gate>,
    kicks: Vec<Kick>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(board: &Arc<Board>, vcpus: Vec<(Vcpu, Option<RingFull>)>, stores: &Arc<AtomicU64>) -> Self {
        let gate = Arc::new(Gate::default());
        let kicks = vcpus.iter().map(|(vcpu, _)| vcpu.kicker()).collect();
        let mut threads: Vec<_> = vcpus
            .into_iter()
            .map(|(vcpu, ring)| {
                let (board, gate, stores) = (Arc::clone(board), Arc::clone(&gate), Arc::clone(stores));
                thread::spawn(move || run_vcpu(&board, vcpu, ring.as_ref(), &gate, &stores))
            })
            .collect();
        let (device_board, device_gate) = (Arc::clone(board), Arc::clone(&gate));
        threads.push(thread::spawn(move || run_device(&device_board, &device_gate)));
        Self { gate, kicks, threads }
    }
}

impl Vcpus for Writers {
    fn stop(&mut self) -> Result<(), BoxError> {
        let mut state = self.gate.state.lock().unwrap();
        state.stop = true;
        // After the wish is set: a vCPU that misses the kick sees the wish, and the other way round.
        self.kicks.iter().for_each(Kick::kick);
        while state.parked < self.threads.len() {
            state = self.gate.changed.wait(state).unwrap();
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), BoxError> {
        self.gate.state.lock().unwrap().stop = false;
        self.gate.changed.notify_all();
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.gate.state.lock().unwrap().quit = true;
        self.gate.changed.notify_all();
        self.kicks.iter().for_each(Kick::kick);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn run_vcpu(board: &Board, mut vcpu: Vcpu, ring: Option<&RingFull>, gate: &Gate, stores: &AtomicU64) {
    let mut random = Random(u64::from(vcpu.id()) + 1);
    let slots: Vec<_> = board.slots.iter().copied().collect();
    'parked: while gate.pass(|| vcpu.clear_immediate_exit()) {
        loop {
            let exit = match vcpu.enter() {
                Err(exit) => exit,
                Ok(mut running) => loop {
                    let slot = &slots[usize::try_from(random.below(slots.len() as u64)).unwrap()];
                    // Half of the stores go to a hot eighth.
                    let span = if random.below(2) == 0 { slot.npages } else { slot.npages.div_ceil(8) };
                    let gpa = board.gpa(slot.id, random.below(span)) + 8 * random.below(8);
                    let stored = if random.below(16) == 0 {
                        running.kvm_write(gpa, &random.next().to_ne_bytes()).map(drop)
                    } else {
                        running.store(gpa, &random.next().to_ne_bytes())
                    };
                    match stored.and_then(|()| running.poll()) {
                        Ok(()) => stores.fetch_add(1, Ordering::Relaxed),
                        Err(exit) => break exit,
                    };
                },
            };
            match exit {
                Exit::DirtyRingFull => drop(ring.unwrap().drain().unwrap()),
                Exit::Interrupted => continue 'parked,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn run_device(board: &Board, gate: &Gate) {
    let mut random = Random(99);
    while gate.pass(|| {}) {
        while !gate.is_stopping() {
            let slot = slot(u16::try_from(random.below(board.slots.iter().len() as u64)).unwrap());
            let page = random.below(board.slots.get(slot).unwrap().npages);
            board.monitor_write(slot, page, &random.next().to_ne_bytes());
            thread::yield_now();
            if gate.state.lock().unwrap().quit {
                return;
            }
        }
    }
}

fn checkpoints(profile: Profile, wish: Wish, vcpus: u32) {
    let has_device_tables = profile.arch() == ringmark_engine::Arch::Arm64;
    let board = Board::new(profile, wish, &[600, 130, 77]);
    let mut tracker = board.tracker();
    let events = tracker.events();
    let stores = Arc::new(AtomicU64::new(0));
    let vcpus = (0..vcpus)
        .map(|id| {
            let vcpu = board.vm.create_vcpu(id).unwrap();
            let ring = vcpu.ring_memory().map(|memory| tracker.add_ring(id, memory).unwrap());
            (vcpu, ring)
        })
        .collect();
    board.vm.set_strict(true);
    tracker.arm().unwrap();

    let mut random = Random(7);
    let mut image = board.image();
    let mut audit = Audit::begin(&board.slots, &*board).unwrap();
    let mut writers = Writers::start(&board, vcpus, &stores);
    let mut unsaved = image.clone();
    let (mut committed, mut seen) = (0, 0);
    while committed < 25 {
        let mut epoch = tracker.open().unwrap();
        for _ in 0..random.below(4) {
            let goal = stores.load(Ordering::Relaxed) + random.below(3000);
            while stores.load(Ordering::Relaxed) < goal {
                thread::yield_now();
            }
            image.capture(&*board, &epoch.round().unwrap());
        }
        if random.below(6) == 0 {
            drop(epoch);
            image.clone_from(&unsaved);
            continue;
        }
        let cut = epoch.cut().stop(&mut writers).unwrap();
        let save = |random: &mut Random| -> Result<(), BoxError> {
            if has_device_tables {
                for _ in 0..random.below(5) {
                    let gpa = board.gpa(slot(0), random.below(600));
                    board.vm.device_write(gpa, &random.next().to_ne_bytes(), Writer::VgicTable)?;
                }
            }
            if random.below(6) == 0 { Err("a table lies outside memory".into()) } else { Ok(()) }
        };
        let Ok((cut, ())) = cut.save_devices(|_| save(&mut random)) else {
            image.clone_from(&unsaved);
            continue;
        };
        let cut = cut.seal().unwrap();
        image.capture(&*board, cut.pages());
        board.vm.declare_complete();
        assert_eq!(image.differences(&*board), [], "epoch {committed}");
        assert_eq!(board.vm.unreported(), []);
        let escapes = audit.observe(&*board, cut.epoch_pages()).unwrap().escapes;
        assert_eq!(escapes, [], "epoch {committed}");
        assert_eq!(cut.by_source().total(), cut.epoch_pages().len());
        let epoch = cut.resume().unwrap();
        seen += epoch.by_source().ring + epoch.by_source().bitmap;
        if random.below(5) == 0 {
            drop(epoch);
            image.clone_from(&unsaved);
        } else {
            epoch.commit();
            unsaved.clone_from(&image);
            committed += 1;
        }
    }
    assert!(seen > 0);
    drop(writers);
    assert_eq!(events.take(), []);
    assert_eq!(board.vm.violations(), []);
    if let Some(stats) = tracker.stats().read() {
        eprintln!("{:?}: {} stores, {stats:?}", board.method, stores.load(Ordering::Relaxed));
    }
}

#[test]
fn x86_rings() {
    checkpoints(Profile::x86(), Wish::Ring { entries: Some(256) }, 3);
}

#[test]
fn x86_rings_with_a_page_modification_log() {
    checkpoints(Profile::x86().pml(true), Wish::Ring { entries: Some(1024) }, 2);
}

#[test]
fn x86_bitmaps() {
    checkpoints(Profile::x86(), Wish::Bitmap, 2);
}

#[test]
fn x86_bitmaps_with_a_page_modification_log() {
    checkpoints(Profile::x86().pml(true), Wish::Bitmap, 2);
}

#[test]
fn arm64_rings_with_backup_bitmaps() {
    checkpoints(Profile::arm64(), Wish::Ring { entries: Some(256) }, 3);
}

#[test]
fn arm64_of_16_kib_pages() {
    checkpoints(
        Profile::arm64().page_size(PageSize::new(16384).unwrap()),
        Wish::Ring { entries: Some(1024) },
        2,
    );
}

#[test]
fn arm64_bitmaps() {
    checkpoints(Profile::arm64(), Wish::Auto, 2);
    checkpoints(Profile::arm64(), Wish::Bitmap, 2);
}
