//! Whole machines whose memory arrives late.

use std::io;
use std::time::{Duration, Instant};

use ringmark_guest::Pattern;
use ringmark_image::{Image, ImageId, Store};
use ringmark_track::Wish;

use super::*;
use crate::{
    Boot, Checkpoint, CheckpointError, CheckpointOptions, GuestSpec, HypervisorWish, Loading as WhenLoaded,
    Machine, MachineConfig, RestoreError, RestoreOptions, RunError,
};

/// An image, slowly; its loader waits, and one page of it may be damaged.
struct Slow {
    image: Image,
    background: Arc<Hold>,
    damaged: Option<u64>,
}

impl Contents for Slow {
    fn page(&self, slot: SlotId, offset: u64, place: Place<'_>) -> Result<(), LoadCause> {
        thread::sleep(Duration::from_micros(300));
        // It may come with another page, too.
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

fn on_each(name: &str, test: impl Fn(HypervisorWish)) {
    if usable(name, Faults::UserOnly) {
        test(HypervisorWish::Engine);
    }
    match ringmark_kvm::System::open() {
        Ok(_) if usable(name, Faults::All) => test(HypervisorWish::Kvm),
        Ok(_) => {}
        Err(error) => eprintln!("SKIPPED {name} on /dev/kvm: {error}"),
    }
}

fn options(hypervisor: HypervisorWish, loading: WhenLoaded) -> RestoreOptions {
    RestoreOptions { name: None, hypervisor, tracking: Wish::Auto, audit: None, loading }
}

/// The image of a machine that has written for a while.
fn image_of_a_machine(hypervisor: HypervisorWish, store: &Store) -> ImageId {
    let config = MachineConfig {
        name: "lazy".into(),
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
    checkpoint(&machine, store).image
}

fn checkpoint(machine: &Machine, store: &Store) -> Checkpoint {
    machine.checkpoint(store, CheckpointOptions::default(), &mut |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

/// Waits until the guest has written `pages` more pages.
fn let_write(machine: &Machine, pages: u64) {
    let begun = Instant::now();
    let target = machine.pages_written().unwrap() + pages;
    while machine.pages_written().unwrap() < target {
        assert!(machine.outcome().is_none(), "{:?}", machine.outcome());
        assert!(begun.elapsed() < Duration::from_secs(60), "the guest writes nothing");
        thread::sleep(Duration::from_millis(1));
    }
}

fn lazily(
    store: &Store,
    id: ImageId,
    hypervisor: HypervisorWish,
    damaged: Option<u64>,
) -> (Machine, Arc<Hold>) {
    let image = store.image(id).unwrap();
    let background = Arc::new(Hold::default());
    let slow = Slow { image: image.clone(), background: Arc::clone(&background), damaged };
    let options = options(hypervisor, WhenLoaded::Lazy);
    let machine = Machine::restore_from(store, &image, Box::new(slow), options, Box::new(io::sink()));
    (machine.unwrap_or_else(|e| panic!("{e}")), background)
}

/// The guest of each image finds every page it had certified.
fn whole(store: &Store, id: ImageId, hypervisor: HypervisorWish) {
    for loading in [WhenLoaded::Eager, WhenLoaded::Lazy] {
        let image = store.image(id).unwrap();
        let options = options(hypervisor, loading);
        let machine = Machine::restore(store, &image, options, Box::new(io::sink())).unwrap();
        assert_eq!(machine.check_memory().unwrap().damaged, 0, "{loading:?}");
        machine.resume().unwrap();
        let report = machine.check(Duration::from_secs(60)).unwrap();
        assert_eq!((report.guest.damaged, report.memory.damaged), (0, 0), "{loading:?}: {report:?}");
    }
}

#[test]
fn checkpoints_while_pages_are_outstanding_lose_nothing() {
    on_each("checkpoints_while_pages_are_outstanding", |hypervisor| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        let id = image_of_a_machine(hypervisor, &store);

        let (machine, background) = lazily(&store, id, hypervisor, None);
        machine.resume().unwrap();
        let mut images = vec![];
        for number in 0..4 {
            let_write(&machine, 200);
            let taken = checkpoint(&machine, &store);
            assert_eq!(taken.parent, Some(images.last().copied().unwrap_or(id)), "checkpoint {number}");
            let arrival = machine.ram().arrival().unwrap();
            assert_eq!(arrival.whole, number == 3, "{arrival:?}");
            assert!(taken.stored.pages < 6000, "what did not come is not stored: {}", taken.stored.pages);
            images.push(taken.image);
            if number == 2 {
                background.open();
                machine.wait_until_whole().unwrap();
            }
        }
        // A base needs everything; here it has come.
        let base = machine
            .checkpoint(&store, CheckpointOptions { full: true, ..CheckpointOptions::default() }, &mut |_| {})
            .unwrap();
        assert_eq!(base.parent, None);
        images.push(base.image);
        drop(machine);
        images.into_iter().for_each(|id| whole(&store, id, hypervisor));
    });
}

#[test]
fn a_base_waits_for_all_of_memory() {
    on_each("a_base_waits_for_all_of_memory", |hypervisor| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        let id = image_of_a_machine(hypervisor, &store);
        let (machine, background) = lazily(&store, id, hypervisor, None);
        machine.resume().unwrap();
        let_write(&machine, 100);
        let base = thread::scope(|scope| {
            let taking = scope.spawn(|| {
                machine
                    .checkpoint(
                        &store,
                        CheckpointOptions { full: true, ..CheckpointOptions::default() },
                        &mut |_| {},
                    )
                    .unwrap()
            });
            // The guest runs on while the base waits; one that does not wait is given the time to show it.
            let_write(&machine, 100);
            let early = (0..100).any(|_| {
                thread::sleep(Duration::from_millis(10));
                taking.is_finished()
            });
            background.open();
            let base = taking.join().unwrap();
            assert!(!early, "a base of memory that is still to come");
            base
        });
        assert_eq!(base.stored.pages, machine.ram().slots().total_pages());
        drop(machine);
        whole(&store, base.image, hypervisor);
    });
}

#[test]
fn a_machine_ends_where_its_memory_is_damaged() {
    on_each("a_machine_ends_where_its_memory_is_damaged", |hypervisor| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        let id = image_of_a_machine(hypervisor, &store);
        let (machine, background) = lazily(&store, id, hypervisor, None);
        background.open();
        let hot = machine.hot_region().unwrap();
        let page = machine.facts().page_size;
        drop(machine);

        let damaged = (hot.start + (hot.end - hot.start) / 2) / page;
        let (machine, background) = lazily(&store, id, hypervisor, Some(damaged));
        machine.resume().unwrap();
        // A guest that writes everywhere comes to it soon.
        let ended = machine.wait();
        assert!(matches!(&ended, Err(RunError::Load(error)) if error.page.is_some()), "{ended:?}");
        let refused = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {});
        assert!(matches!(refused, Err(CheckpointError::Ended)), "{refused:?}");
        assert_eq!(store.list().unwrap().images.len(), 2, "no image of it was taken");
        background.open();
    });
}

/// A store that is gone before the restore has read what it needs itself.
#[test]
fn a_restore_says_what_it_could_not_read() {
    on_each("a_restore_says_what_it_could_not_read", |hypervisor| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        let id = image_of_a_machine(hypervisor, &store);
        struct Gone;
        impl Contents for Gone {
            fn page(&self, _: SlotId, _: u64, _: Place<'_>) -> Result<(), LoadCause> {
                Err(LoadCause::Server(io::ErrorKind::ConnectionReset.into()))
            }
            fn pages(&self, _: &DirtyPages, _: Place<'_>) -> Result<(), LoadCause> {
                Err(LoadCause::Server(io::ErrorKind::ConnectionReset.into()))
            }
        }
        let image = store.image(id).unwrap();
        let options = options(hypervisor, WhenLoaded::Lazy);
        let gone = Machine::restore_from(&store, &image, Box::new(Gone), options, Box::new(io::sink()));
        assert!(matches!(gone, Err(RestoreError::Load(_))), "{gone:?}");
    });
}

/// A vCPU waits for a page that does not come, and the machine is stopped and dropped all the same.
#[test]
fn a_machine_ends_while_its_store_hangs() {
    on_each("a_machine_ends_while_its_store_hangs", |hypervisor| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path().join("store")).unwrap();
        let id = image_of_a_machine(hypervisor, &store);
        /// An image whose store stops answering.
        struct Hangs {
            image: Image,
            hold: Arc<Hold>,
            left: AtomicU64,
        }
        impl Contents for Hangs {
            fn page(&self, slot: SlotId, offset: u64, place: Place<'_>) -> Result<(), LoadCause> {
                if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err() {
                    self.hold.pass();
                }
                Contents::page(&self.image, slot, offset, place)
            }
            fn pages(&self, _: &DirtyPages, _: Place<'_>) -> Result<(), LoadCause> {
                self.hold.pass();
                Ok(())
            }
        }
        let image = store.image(id).unwrap();
        let hold = Arc::new(Hold::default());
        let hangs = Hangs { image: image.clone(), hold: Arc::clone(&hold), left: AtomicU64::new(100) };
        let options = options(hypervisor, WhenLoaded::Lazy);
        let machine =
            Machine::restore_from(&store, &image, Box::new(hangs), options, Box::new(io::sink())).unwrap();
        machine.resume().unwrap();
        let begun = machine.pages_written().unwrap();
        thread::sleep(Duration::from_millis(200));
        assert!(machine.pages_written().unwrap() < begun + 2000, "it waits for its memory");
        machine.end();
        machine.wait().unwrap();
        // The threads of the store are let go last; the vCPUs did not wait for them.
        hold.open();
    });
}
