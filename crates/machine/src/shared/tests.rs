//! Machines that share a memory: what each writes, what none has written, and memory that does not come.

use std::io;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringmark_dirty::{DirtyPages, SlotId};
use ringmark_guest::Pattern;
use ringmark_image::Store;
use ringmark_track::{AuditRate, Wish};
use ringmark_uffd::{Features, Userfaultfd};
use vm_memory::Bytes;

use super::*;
use crate::lazy::{LoadCause, Place};
use crate::{
    Boot, CheckWith, CheckWithError, Checkpoint, CheckpointError, CheckpointOptions, GuestSpec,
    HypervisorWish, Machine, MachineConfig, RestoreOptions, RunError,
};

fn on_each(name: &str, test: impl Fn(HypervisorWish)) {
    let usable = |faults| match Userfaultfd::open(faults, Features::MISSING_SHMEM) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED {name}: {error}");
            false
        }
    };
    if usable(Faults::UserOnly) {
        test(HypervisorWish::Engine);
    }
    match ringmark_kvm::System::open() {
        Ok(_) if usable(Faults::All) => test(HypervisorWish::Kvm),
        Ok(_) => {}
        Err(error) => eprintln!("SKIPPED {name} on /dev/kvm: {error}"),
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    (dir, store)
}

/// The image of a machine of 64 MiB that has written for a while.
fn image_of_a_machine(hypervisor: HypervisorWish, store: &Store) -> Image {
    let config = MachineConfig {
        name: "parent".into(),
        memory: 64 << 20,
        vcpus: 2,
        hypervisor,
        tracking: Wish::Auto,
        boot: Boot::Guest(GuestSpec { pattern: Pattern::Uniform, hot: 8 << 20, pace: 0, seed: 3 }),
        audit: None,
        its: 1,
    };
    let machine = Machine::create(config, Box::new(io::sink())).unwrap();
    machine.resume().unwrap();
    let_write(&machine, 6000);
    checkpoint(&machine, store);
    let_write(&machine, 300);
    let id = checkpoint(&machine, store).image;
    store.image(id).unwrap()
}

fn checkpoint(machine: &Machine, store: &Store) -> Checkpoint {
    machine.checkpoint(store, CheckpointOptions::default(), &mut |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn full(machine: &Machine, store: &Store) -> Checkpoint {
    let options = CheckpointOptions { full: true, ..CheckpointOptions::default() };
    machine.checkpoint(store, options, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn let_write(machine: &Machine, pages: u64) {
    let begun = Instant::now();
    let target = machine.pages_written().unwrap() + pages;
    while machine.pages_written().unwrap() < target {
        assert!(machine.outcome().is_none(), "{:?}", machine.outcome());
        assert!(begun.elapsed() < Duration::from_secs(60), "the guest writes nothing");
        thread::sleep(Duration::from_millis(1));
    }
}

fn options(hypervisor: HypervisorWish, name: &str) -> RestoreOptions {
    let name = Some(name.to_owned());
    RestoreOptions { name, hypervisor, tracking: Wish::Auto, audit: None, loading: Loading::Eager }
}

fn clone_of(
    shared: &SharedMemory,
    store: &Store,
    image: &Image,
    options: RestoreOptions,
) -> Result<Machine, RestoreError> {
    let share = Share::receive(shared.share().unwrap()).unwrap();
    Machine::restore_shared(store, image, share, options, Box::new(io::sink()))
}

fn sound(machine: &Machine) {
    let report = machine.check(Duration::from_secs(60)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((report.guest.damaged, report.memory.damaged), (0, 0), "{report:?}");
    assert!(report.memory.lanes > 0);
}

/// The guest of an image, restored by itself, finds every page it had certified.
fn restores(store: &Store, id: ImageId, hypervisor: HypervisorWish) {
    let image = store.image(id).unwrap();
    let machine =
        Machine::restore(store, &image, options(hypervisor, "again"), Box::new(io::sink())).unwrap();
    assert_eq!(machine.check_memory().unwrap().damaged, 0);
    machine.resume().unwrap();
    sound(&machine);
}

/// A gate that a thread can be made to wait at.
#[derive(Debug, Default)]
struct Hold {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Hold {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        drop(self.changed.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// An image whose loader waits, and one page of which may be damaged.
struct Slow {
    image: Image,
    background: Arc<Hold>,
    damaged: Option<u64>,
}

impl Contents for Slow {
    fn page(&self, slot: SlotId, offset: u64, place: Place<'_>) -> Result<(), LoadCause> {
        let place = |slot, first, bytes: &[u8]| {
            let end = first + bytes.len() as u64 / self.image.layout().page_size().bytes();
            match self.damaged.filter(|damaged| (first..end).contains(damaged)) {
                Some(offset) => Err(LoadCause::NoSuchPage { slot, offset }),
                None => place(slot, first, bytes),
            }
        };
        Contents::page(&self.image, slot, offset, &place)
    }

    fn pages(&self, pages: &DirtyPages, place: Place<'_>) -> Result<(), LoadCause> {
        self.background.pass();
        Contents::pages(&self.image, pages, place)
    }
}

fn slowly(image: &Image, damaged: Option<u64>) -> (SharedMemory, Arc<Hold>) {
    let background = Arc::new(Hold::default());
    let slow = Slow { image: image.clone(), background: Arc::clone(&background), damaged };
    let shared =
        SharedMemory::load_from(image, Box::new(slow), Loading::Lazy).unwrap_or_else(|e| panic!("{e}"));
    (shared, background)
}

/// Each goes its own way from the same memory, and its images are increments to the one that they have in common.
#[test]
fn clones_write_for_themselves() {
    on_each("clones_write_for_themselves", |hypervisor| {
        for (loading, tracking) in [(Loading::Eager, Wish::Auto), (Loading::Lazy, Wish::Bitmap)] {
            let (_dir, store) = store();
            let image = image_of_a_machine(hypervisor, &store);
            let shared = SharedMemory::load(&image, loading).unwrap_or_else(|e| panic!("{e}"));
            let machines = ["a", "b", "c"].map(|name| {
                let options = RestoreOptions { tracking, ..options(hypervisor, name) };
                clone_of(&shared, &store, &image, options).unwrap_or_else(|e| panic!("{e}"))
            });
            machines.iter().for_each(|machine| machine.resume().unwrap());
            let mut images = Vec::new();
            for (machine, pages) in machines.iter().zip([200, 2000, 400]) {
                let_write(machine, pages);
                let taken = checkpoint(machine, &store);
                assert_eq!(taken.parent, Some(image.id()));
                assert!(taken.stored.pages < image.layout().pages());
                images.push(taken.image);
            }
            machines.iter().for_each(sound);
            for machine in &machines {
                let_write(machine, 100);
                images.push(checkpoint(machine, &store).image);
                let base = full(machine, &store);
                assert_eq!((base.parent, base.stored.pages), (None, image.layout().pages()));
                images.push(base.image);
            }
            let names: Vec<_> =
                images.iter().map(|id| store.image(*id).unwrap().summary().vm.clone()).collect();
            assert_eq!(names, ["a", "b", "c", "a", "a", "b", "b", "c", "c"]);
            drop((machines, shared));
            images.into_iter().for_each(|id| restores(&store, id, hypervisor));
        }
    });
}

/// B10, of clones: what was not touched is not there, and is left out; what another clone has brought is not taken for what
/// this one has written, nor the other way round.
#[test]
fn checkpoints_of_clones_while_pages_are_outstanding_lose_nothing() {
    on_each("checkpoints_of_clones_while_pages_are_outstanding", |hypervisor| {
        let (_dir, store) = store();
        let image = image_of_a_machine(hypervisor, &store);
        let (shared, background) = slowly(&image, None);
        let machines = ["a", "b"].map(|name| {
            clone_of(&shared, &store, &image, options(hypervisor, name)).unwrap_or_else(|e| panic!("{e}"))
        });
        let mut images = Vec::new();
        for round in 0..4 {
            for machine in &machines {
                machine.resume().unwrap();
                let_write(machine, 150);
                let taken = checkpoint(machine, &store);
                assert!(taken.parent.is_some() && taken.stored.pages < 6000, "{}", taken.stored.pages);
                assert_eq!(machine.ram().arrival().unwrap().whole, round == 3);
                images.push(taken.image);
            }
            if round == 2 {
                background.open();
                shared.wait_until_whole().unwrap();
                machines.iter().for_each(|machine| machine.wait_until_whole().unwrap());
            }
        }
        machines.iter().for_each(sound);
        images.extend(machines.iter().map(|machine| full(machine, &store).image));
        drop((machines, shared));
        images.into_iter().for_each(|id| restores(&store, id, hypervisor));
    });
}

/// Reads past the guest: what one has written, what nobody has, and a hole that stays one.
#[test]
fn each_reads_its_own_memory_and_fills_no_hole() {
    on_each("each_reads_its_own_memory", |hypervisor| {
        let (_dir, store) = store();
        let image = image_of_a_machine(hypervisor, &store);
        let shared = SharedMemory::load(&image, Loading::Eager).unwrap();
        let machines =
            ["a", "b"].map(|name| clone_of(&shared, &store, &image, options(hypervisor, name)).unwrap());
        let [one, other] = machines.each_ref().map(Machine::ram);
        let page = usize::try_from(one.layout().page_size().bytes()).unwrap();
        let slot = one.slots().iter().next().unwrap();
        let present = one.present().unwrap();
        let holes = (0..slot.npages).filter(|offset| !present.contains(slot.id, *offset)).count();
        assert!(holes > 1000, "{holes} holes");
        let mut before = vec![0; page];
        let written = present.iter().last().unwrap().1;
        image.page(slot.id, written, &mut before).unwrap();
        one.guest().write_obj(0x5eed_u64, one.address(slot.id, written).unwrap()).unwrap();
        let mut after = before.clone();
        after[..8].copy_from_slice(&0x5eed_u64.to_ne_bytes());
        for (ram, expected) in [(one, &after), (other, &before)] {
            // A run over pages with data and holes alike.
            let mut run = vec![0xee; 3 * page];
            let first = written.saturating_sub(1);
            ram.peek_pages(slot.id, first, &mut run).unwrap();
            assert_eq!(run[page..2 * page], expected[..], "with its neighbours");
            let mut alone = vec![0xee; page];
            ram.read_pages(slot.id, written, &mut alone).unwrap();
            assert_eq!(alone, *expected);
            let mut all = vec![0xee; usize::try_from(slot.npages).unwrap() * page];
            ram.peek_pages(slot.id, 0, &mut all).unwrap();
            for offset in (0..slot.npages).filter(|offset| !present.contains(slot.id, *offset)) {
                let at = usize::try_from(offset).unwrap() * page;
                assert!(all[at..at + page].iter().all(|byte| *byte == 0), "page {offset}");
            }
        }
        assert_eq!(other.present().unwrap(), present, "a look fills no hole");
        // Nobody changes what they share.
        let file = one.file();
        assert!(std::os::unix::fs::FileExt::write_at(&**file, &[1], 0).is_err() && file.set_len(0).is_err());
    });
}

/// The audit and a second look see what a clone writes to its private mapping.
#[test]
fn what_clones_write_is_reported_and_checked() {
    on_each("what_clones_write_is_reported", |hypervisor| {
        let (_dir, store) = store();
        let image = image_of_a_machine(hypervisor, &store);
        let shared = SharedMemory::load(&image, Loading::Eager).unwrap();
        let audited = RestoreOptions { audit: Some(AuditRate::EVERY_PAGE), ..options(hypervisor, "a") };
        let machine = clone_of(&shared, &store, &image, audited).unwrap_or_else(|e| panic!("{e}"));
        let uffd = machine.check_with(CheckWith::Uffd);
        assert!(matches!(uffd, Err(CheckWithError::Shared)), "{uffd:?}");
        machine.check_with(CheckWith::Hash).unwrap();
        machine.resume().unwrap();
        for _ in 0..3 {
            let_write(&machine, 500);
            let taken = checkpoint(&machine, &store);
            assert!(taken.audit.is_some());
            assert!(taken.check.unwrap().pages >= 100, "{:?}", taken.check);
        }
    });
}

#[test]
fn a_page_that_cannot_be_had_ends_every_clone() {
    on_each("a_page_that_cannot_be_had_ends_every_clone", |hypervisor| {
        let (_dir, store) = store();
        let image = image_of_a_machine(hypervisor, &store);
        let hot = {
            let machine =
                Machine::restore(&store, &image, options(hypervisor, "x"), Box::new(io::sink())).unwrap();
            machine.hot_region().unwrap()
        };
        let damaged = (hot.start + (hot.end - hot.start) / 2) / image.layout().page_size().bytes();
        let (shared, background) = slowly(&image, Some(damaged));
        let machines =
            ["a", "b"].map(|name| clone_of(&shared, &store, &image, options(hypervisor, name)).unwrap());
        let images = store.list().unwrap().images.len();
        // One comes to it; the other learns of it.
        machines[0].resume().unwrap();
        for machine in &machines {
            let ended = machine.wait();
            assert!(matches!(&ended, Err(RunError::Load(_))), "{ended:?}");
            let refused = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {});
            assert!(matches!(refused, Err(CheckpointError::Ended)), "{refused:?}");
        }
        assert!(shared.failure().unwrap().page.is_some(), "{:?}", shared.failure());
        assert_eq!(store.list().unwrap().images.len(), images, "no image of them was taken");
        // One that comes late learns of it, too.
        let late = clone_of(&shared, &store, &image, options(hypervisor, "c"));
        assert!(late.is_err() || late.unwrap().wait().is_err());
        background.open();
    });
}

/// The process that brings pages is gone before they are all there, and after.
#[test]
fn clones_need_who_brings_their_memory_until_it_is_there() {
    on_each("clones_need_who_brings_their_memory", |hypervisor| {
        let (_dir, store) = store();
        let image = image_of_a_machine(hypervisor, &store);
        let (shared, background) = slowly(&image, None);
        let machine = clone_of(&shared, &store, &image, options(hypervisor, "a")).unwrap();
        machine.resume().unwrap();
        let_write(&machine, 10);
        background.open();
        drop(shared);
        // It may have been whole by then.
        match machine.wait_until_whole() {
            Ok(()) => sound(&machine),
            Err(_) => assert!(matches!(machine.wait(), Err(RunError::Load(_)))),
        }

        let shared = SharedMemory::load(&image, Loading::Lazy).unwrap();
        let machine = clone_of(&shared, &store, &image, options(hypervisor, "b")).unwrap();
        machine.wait_until_whole().unwrap();
        drop(shared);
        machine.resume().unwrap();
        let_write(&machine, 1000);
        sound(&machine);
    });
}

#[test]
fn a_share_of_another_image_is_refused() {
    let (_dir, store) = store();
    let image = image_of_a_machine(HypervisorWish::Engine, &store);
    let other = store.image(image.summary().parent.unwrap()).unwrap();
    let shared = SharedMemory::load(&image, Loading::Eager).unwrap();
    let refused = clone_of(&shared, &store, &other, options(HypervisorWish::Engine, "a"));
    assert!(matches!(refused, Err(RestoreError::OtherImage { .. })), "{refused:?}");
    assert!(Share::receive(std::fs::File::open("/dev/null").unwrap().into()).is_err());
}
