//! Stores, resets and collections at once: no page may be lost.

use std::{
    collections::BTreeSet,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use ringmark_abi::Vm as _;
use ringmark_engine::{Exit, Profile, Vcpu, Writer};

use crate::common::{LOG, RO, Ram, Reader, Rig, gpa, region, slot};

const PAGES: u64 = 96;
const VCPUS: u64 = 2;
const ROUNDS: u64 = 500;
const STORES: u64 = 600;
/// Words a store writes: wide, so that a flush often meets one half done.
const WIDTH: usize = 128;
/// Stores that a guest keeps back, in the wrong order, until its pages have been copied.
const LATE: u64 = 40;
/// Words of a page: the lanes of two vCPUs, and twice as much for a device.
const WORDS: usize = 4 * WIDTH;

/// A small generator, so that every run is the same apart from the interleaving.
struct Dice(u64);

impl Dice {
    fn page(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % PAGES
    }
}

/// What the collector does between taking entries and reading their pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    ResetThenCopy,
    CopyThenReset,
}

struct Arena {
    rig: Rig,
    vcpus: Vec<Vcpu>,
    readers: Vec<Reader>,
    /// A device thread writes too.
    device: bool,
    clear: bool,
}

impl Arena {
    fn new(mut rig: Rig, device: bool, clear: bool) -> Self {
        rig.add(0, 0, PAGES, LOG);
        let vcpus: Vec<_> = (0..2).map(|id| rig.vm.create_vcpu(id).unwrap()).collect();
        let readers = vcpus.iter().filter(|vcpu| vcpu.ring_memory().is_some()).map(Reader::new).collect();
        Self { rig, vcpus, readers, device, clear }
    }

    /// Runs rounds of stores beside a collector; after each, with everything stopped and collected, the pages whose copy
    /// differs from memory.
    fn run(&mut self, rounds: u64, order: Order) -> BTreeSet<u64> {
        let Self { rig, vcpus, readers, device, clear } = self;
        let ram: &Ram = &rig.rams[0];
        let mut image = vec![[0u64; WORDS]; usize::try_from(PAGES).unwrap()];
        let mut lost = BTreeSet::new();
        let writers = VCPUS + u64::from(*device);
        for round in 0..rounds {
            let (done, gate) = (AtomicU64::new(0), Gate::new(order));
            let (rig, gate, done) = (&*rig, &gate, &done);
            thread::scope(|scope| {
                for (lane, vcpu) in (0..).zip(vcpus.iter_mut()) {
                    scope.spawn(move || {
                        guest(vcpu, lane, round, gate);
                        done.fetch_add(1, Ordering::Release);
                    });
                }
                if *device {
                    scope.spawn(move || {
                        let mut dice = Dice(round);
                        for i in 0..STORES {
                            let (at, data) = lane_of(dice.page(), VCPUS, round * STORES + i);
                            rig.vm.device_write(at, &data, Writer::VgicTable).unwrap();
                        }
                        done.fetch_add(1, Ordering::Release);
                    });
                }
                // Collected once more after the last writer has ended: nothing is written any more.
                loop {
                    gate.wait_for_guests();
                    let ended = done.load(Ordering::Acquire) == writers;
                    collect(rig, readers, *clear, ram, &mut image, order, || {
                        gate.open();
                        while order == Order::CopyThenReset && done.load(Ordering::Acquire) < writers {
                            thread::yield_now();
                        }
                    });
                    if ended {
                        break;
                    }
                }
            });
            lost.extend((0..PAGES).filter(|&page| copy(ram, page) != image[usize::try_from(page).unwrap()]));
        }
        lost
    }
}

/// Puts the last stores of the guests between copy and reset, where the wrong order loses them whatever the scheduler does;
/// always open in the right order.
struct Gate {
    /// Guests that are past it or stand before it.
    arrived: AtomicU64,
    open: AtomicBool,
}

impl Gate {
    fn new(order: Order) -> Self {
        Self { arrived: AtomicU64::new(0), open: AtomicBool::new(order == Order::ResetThenCopy) }
    }

    fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::Release);
        while !self.open.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }

    fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Returns at once if it is open.
    fn wait_for_guests(&self) {
        while !self.open.load(Ordering::Acquire) && self.arrived.load(Ordering::Acquire) < VCPUS {
            thread::yield_now();
        }
    }
}

/// A guest that writes ever higher numbers into its word of random pages.
fn guest(vcpu: &mut Vcpu, lane: u64, round: u64, gate: &Gate) {
    let mut dice = Dice(round * 7 + lane + 1);
    while vcpu.enter().err() == Some(Exit::DirtyRingFull) {
        thread::yield_now();
    }
    let mut running = vcpu.enter().unwrap();
    for i in 0..STORES {
        if i == STORES - LATE {
            gate.pass();
        }
        let (at, data) = lane_of(dice.page(), lane, round * STORES + i + 1);
        while let Err(exit) = running.store(at, &data) {
            assert_eq!(exit, Exit::DirtyRingFull);
            thread::yield_now();
        }
    }
}

fn copy(ram: &Ram, page: u64) -> [u64; WORDS] {
    std::array::from_fn(|word| ram.read(page, word as u64))
}

/// Where a writer's lane of a page is, and what it writes there.
fn lane_of(page: u64, lane: u64, value: u64) -> (u64, Vec<u8>) {
    let width = if lane == VCPUS { 2 * WIDTH } else { WIDTH };
    (gpa(page) + lane * 8 * WIDTH as u64, value.to_ne_bytes().repeat(width))
}

fn collect(
    rig: &Rig,
    readers: &mut [Reader],
    clear: bool,
    ram: &Ram,
    image: &mut [[u64; WORDS]],
    order: Order,
    between: impl FnOnce(),
) {
    let mut dirty = BTreeSet::new();
    let mut harvested = 0;
    for reader in readers.iter_mut() {
        let taken = reader.harvest_all();
        harvested += taken.len();
        dirty.extend(taken.into_iter().map(|(_, offset)| offset));
    }
    let mut copy_all = |dirty: &BTreeSet<u64>| {
        for &page in dirty {
            image[usize::try_from(page).unwrap()] = copy(ram, page);
        }
    };
    if order == Order::CopyThenReset {
        copy_all(&dirty);
        between();
    }
    if !readers.is_empty() {
        assert_eq!(rig.reset() as usize, harvested);
    }
    if let Ok(bits) = rig.get(0) {
        if clear {
            let mut words = [0u64; 2];
            for &page in &bits {
                words[usize::try_from(page / 64).unwrap()] |= 1 << (page % 64);
            }
            rig.clear(0, 0, u32::try_from(PAGES).unwrap(), &words).unwrap();
        }
        dirty.extend(bits);
    }
    if order == Order::ResetThenCopy {
        copy_all(&dirty);
    }
}

#[test]
fn rings() {
    let lost = Arena::new(Rig::ring(Profile::x86(), 4096), false, false).run(ROUNDS, Order::ResetThenCopy);
    assert_eq!(lost, BTreeSet::new());
}

#[test]
fn rings_fed_by_a_modification_log() {
    let rig = Rig::ring(Profile::x86().pml(true), 16384);
    let lost = Arena::new(rig, false, false).run(ROUNDS, Order::ResetThenCopy);
    assert_eq!(lost, BTreeSet::new());
}

#[test]
fn rings_and_a_backup_bitmap_with_a_device() {
    let lost = Arena::new(Rig::ring_with_bitmap(4096), true, false).run(ROUNDS, Order::ResetThenCopy);
    assert_eq!(lost, BTreeSet::new());
}

#[test]
fn a_bitmap_alone() {
    let lost = Arena::new(Rig::new(Profile::x86()), true, false).run(ROUNDS, Order::ResetThenCopy);
    assert_eq!(lost, BTreeSet::new());
}

#[test]
fn a_bitmap_alone_in_manual_mode() {
    let rig = Rig::new(Profile::x86().pml(true));
    rig.manual(1);
    let lost = Arena::new(rig, true, true).run(ROUNDS, Order::ResetThenCopy);
    assert_eq!(lost, BTreeSet::new());
}

#[test]
fn strict_mode_finds_nothing_to_say() {
    let rig = Rig::ring_with_bitmap(4096);
    rig.vm.set_strict(true);
    let mut arena = Arena::new(rig, true, false);
    for _ in 0..ROUNDS {
        assert_eq!(arena.run(1, Order::ResetThenCopy), BTreeSet::new());
        arena.rig.vm.declare_complete();
        assert_eq!(arena.rig.vm.unreported(), []);
        assert_eq!(arena.rig.vm.violations(), []);
    }
}

/// The control: the same arena must notice the classic mistake.
#[test]
fn copying_before_the_reset_loses_pages() {
    let mut arena = Arena::new(Rig::ring(Profile::x86(), 16384), false, false);
    assert!(
        !arena.run(1, Order::CopyThenReset).is_empty(),
        "copying too early lost nothing: the arena cannot see a loss"
    );
}

#[test]
fn no_store_lands_after_its_slot_was_deleted() {
    let mut rig = Rig::new(Profile::x86());
    let ram = rig.add(0, 0, PAGES, 0);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let end = AtomicBool::new(false);
    let started = Barrier::new(2);
    thread::scope(|scope| {
        let (end, started) = (&end, &started);
        scope.spawn(move || {
            started.wait();
            let mut dice = Dice(1);
            let mut value = 0u64;
            while !end.load(Ordering::Relaxed) {
                value += 1;
                match vcpu.store(gpa(dice.page()), &value.to_ne_bytes()) {
                    Ok(()) | Err(Exit::Mmio { .. }) => {}
                    Err(exit) => panic!("{exit:?}"),
                }
            }
        });
        started.wait();
        for i in 0..300u64 {
            rig.delete(0).unwrap();
            (0..PAGES).for_each(|page| ram.write(page, 0, u64::MAX));
            thread::yield_now();
            assert!((0..PAGES).all(|page| ram.read(page, 0) == u64::MAX));
            rig.set(&region(0, 0, PAGES, if i % 3 == 0 { RO } else { LOG }, &ram)).unwrap();
            thread::yield_now();
            if i % 3 == 0 {
                assert!((0..PAGES).all(|page| ram.read(page, 0) == u64::MAX), "read-only");
            }
        }
        end.store(true, Ordering::Relaxed);
    });
}

#[test]
fn logging_switched_on_catches_every_store_that_starts_afterwards() {
    let mut rig = Rig::ring(Profile::x86(), 4096);
    let ram = rig.add(0, 0, PAGES, 0);
    let mut vcpu = rig.vm.create_vcpu(0).unwrap();
    let mut reader = Reader::new(&vcpu);
    let (go, parked) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let (go, parked) = (&go, &parked);
        scope.spawn(move || {
            for round in 1..=200u64 {
                go.wait();
                let mut dice = Dice(round);
                let mut running = vcpu.enter().unwrap();
                for _ in 0..200 {
                    running.store(gpa(dice.page()), &round.to_ne_bytes()).unwrap();
                }
                drop(running);
                parked.store(true, Ordering::Release);
                go.wait();
            }
        });
        for _ in 1..=200u64 {
            go.wait();
            rig.flags(0, LOG);
            let before: Vec<u64> = (0..PAGES).map(|page| ram.read(page, 0)).collect();
            while !parked.swap(false, Ordering::Acquire) {
                thread::yield_now();
            }
            let logged: BTreeSet<u64> = reader.harvest_all().into_iter().map(|(_, offset)| offset).collect();
            for (page, before) in (0..).zip(before) {
                assert!(
                    ram.read(page, 0) == before || logged.contains(&page),
                    "page {page} changed unlogged"
                );
            }
            rig.reset();
            rig.vm.set_memslot_flags(slot(0), 0).unwrap();
            go.wait();
        }
    });
}
