//! Checkpoint and restore, the whole way.

#![allow(clippy::unwrap_used, reason = "a test ends where anything fails")]

mod common;

use std::io;
use std::thread;
use std::time::Duration;

use common::{checkpoint, create, guest, let_write, on_each, store};
use ringmark_guest::Pattern;
use ringmark_machine::{
    Boot, CheckpointError, CheckpointOptions, HypervisorWish, Loading, Machine, Phase, RestoreOptions,
    RunState,
};
use ringmark_track::{AuditRate, Wish};

const LIMIT: Duration = Duration::from_secs(60);

fn options(hypervisor: HypervisorWish, tracking: Wish) -> RestoreOptions {
    RestoreOptions {
        name: None,
        hypervisor,
        tracking,
        audit: Some(AuditRate::EVERY_PAGE),
        loading: Loading::Eager,
    }
}

/// Takes a base and increments while the guest writes; kills it; restores each image; the guest finds itself whole.
fn chain(hypervisor: HypervisorWish, tracking: Wish, pattern: Pattern) {
    let (_dir, store) = store();
    let machine = create(guest(hypervisor, tracking, pattern));
    machine.resume().unwrap();
    let mut images = Vec::new();
    for number in 0..4 {
        let_write(&machine, 500);
        let taken = checkpoint(&machine, &store);
        assert_eq!(taken.parent, images.last().copied(), "checkpoint {number}");
        assert_eq!(taken.by_source.total(), taken.stored.pages);
        assert_eq!(taken.by_source.event, 0, "{:?}", machine.take_events());
        images.push(taken.image);
    }
    drop(machine);

    for id in images {
        let image = store.image(id).unwrap();
        let restored = Machine::restore(&store, &image, options(hypervisor, tracking), Box::new(io::sink()))
            .unwrap_or_else(|e| panic!("{e}"));
        let memory = restored.check_memory().unwrap();
        assert_eq!(memory.damaged, 0, "{memory:?}");
        assert!(memory.lanes > 0);
        restored.resume().unwrap();
        let_write(&restored, 500);
        let report = restored.check(LIMIT).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((report.guest.damaged, report.memory.damaged), (0, 0), "{report:?}");
        // It goes on from the image: its next checkpoint is an increment to it.
        let next = checkpoint(&restored, &store);
        assert_eq!(next.parent, Some(id));
        assert!(next.stored.pages < image.layout().pages());
    }
}

#[test]
fn a_chain_with_rings_restores_to_any_image() {
    on_each("a chain with rings", |hypervisor| {
        chain(hypervisor, Wish::Ring { entries: None }, Pattern::Sequential);
    });
}

#[test]
fn a_chain_with_bitmaps_restores_to_any_image() {
    on_each("a chain with bitmaps", |hypervisor| chain(hypervisor, Wish::Bitmap, Pattern::Zipf));
}

#[test]
fn the_other_patterns_too() {
    on_each("other patterns", |hypervisor| {
        for pattern in [Pattern::Uniform, Pattern::Bursty { burst: 64, idle: 1000 }, Pattern::Rewrite] {
            chain(hypervisor, Wish::Auto, pattern);
        }
    });
}

#[test]
fn each_kind_of_writer_is_seen_by_its_source() {
    on_each("sources", |hypervisor| {
        let (_dir, store) = store();
        let machine = create(guest(hypervisor, Wish::Ring { entries: None }, Pattern::Uniform));
        machine.resume().unwrap();
        let_write(&machine, 100);
        checkpoint(&machine, &store);
        let_write(&machine, 100);
        thread::sleep(Duration::from_millis(30));
        let taken = checkpoint(&machine, &store);
        assert!(taken.by_source.ring > 0 && taken.by_source.monitor > 0, "{:?}", taken.by_source);
        // arm64's interrupt controller, which the engine has, too, saved its tables with no vCPU running.
        let tables = hypervisor == HypervisorWish::Engine || cfg!(target_arch = "aarch64");
        assert_eq!(taken.by_source.bitmap > 0, tables, "{:?}", taken.by_source);
    });
}

#[test]
fn a_checkpoint_of_a_paused_machine_leaves_it_paused() {
    on_each("paused", |hypervisor| {
        let (_dir, store) = store();
        let machine = create(guest(hypervisor, Wish::Auto, Pattern::Sequential));
        machine.resume().unwrap();
        let_write(&machine, 100);
        machine.pause().unwrap();
        let written = machine.pages_written();
        checkpoint(&machine, &store);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(machine.run_state(), RunState::Paused);
        assert_eq!(machine.pages_written(), written);
        machine.resume().unwrap();
        let_write(&machine, 100);
    });
}

/// The store is taken away in the midst: the pages of the failed epoch are in the next image.
#[test]
fn after_a_failed_checkpoint_the_next_contains_its_pages() {
    on_each("failed checkpoint", |hypervisor| {
        let (dir, store) = store();
        let machine = create(guest(hypervisor, Wish::Auto, Pattern::Uniform));
        machine.resume().unwrap();
        let_write(&machine, 500);
        let base = checkpoint(&machine, &store);
        let_write(&machine, 500);

        let (packs, away) = (dir.path().join("store/packs"), dir.path().join("away"));
        let failed = machine.checkpoint(&store, CheckpointOptions::default(), &mut |progress| {
            if progress.phase == Phase::Paused {
                std::fs::rename(&packs, &away).unwrap();
            }
        });
        assert!(matches!(failed, Err(CheckpointError::Write(_))), "{failed:?}");
        assert_eq!(machine.run_state(), RunState::Running);
        std::fs::rename(&away, &packs).unwrap();

        let_write(&machine, 500);
        let next = checkpoint(&machine, &store);
        assert_eq!(next.parent, Some(base.image));
        assert!(next.by_source.carried > 0, "{:?}", next.by_source);
        drop(machine);
        let image = store.image(next.image).unwrap();
        let restored =
            Machine::restore(&store, &image, options(hypervisor, Wish::Auto), Box::new(io::sink()))
                .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(restored.check_memory().unwrap().damaged, 0);
        restored.resume().unwrap();
        assert_eq!(restored.check(LIMIT).unwrap().guest.damaged, 0);
    });
}

/// Small rings fill all the time; the collector drains them, and nothing is lost.
#[test]
fn small_rings_that_fill_lose_nothing() {
    on_each("small rings", |hypervisor| {
        chain(hypervisor, Wish::Ring { entries: Some(1024) }, Pattern::Uniform);
    });
}

/// The negative control of the in-guest check: a page put back to an older state is named.
#[test]
fn a_page_that_was_lost_is_noticed() {
    on_each("a lost page", |hypervisor| {
        let (_dir, store) = store();
        let machine = create(guest(hypervisor, Wish::Auto, Pattern::Sequential));
        machine.resume().unwrap();
        let_write(&machine, 5000);
        let old = checkpoint(&machine, &store);
        let_write(&machine, 5000);
        machine.pause().unwrap();
        // The hot region lies behind the ledger; its middle is surely a hot page.
        let image = store.image(old.image).unwrap();
        let slot = machine.ram().slots().iter().next().unwrap().id;
        let hot = machine.hot_region().unwrap();
        let offset = (hot.start + (hot.end - hot.start) / 2) / machine.facts().page_size;
        let mut page = vec![0; usize::try_from(machine.facts().page_size).unwrap()];
        image.page(slot, offset, &mut page).unwrap();
        machine.ram().write_pages(slot, offset, &page).unwrap();
        let report = machine.check_memory().unwrap();
        assert!(report.damaged > 0);
    });
}

/// More is hot than memory is set aside for copies, and rounds do not fit: what was copied first must not win over what
/// was written to the store later.
#[test]
fn a_base_whose_rounds_overflow_the_stage_holds_the_newest_pages() {
    on_each("overflowing stage", |hypervisor| {
        let (_dir, store) = store();
        let mut config = guest(hypervisor, Wish::Auto, Pattern::Sequential);
        let Boot::Guest(spec) = &mut config.boot else { unreachable!() };
        // Nearly half of memory, which is what may be copied; so the second round of the base overflows it.
        spec.hot = 29 << 20;
        let machine = create(config);
        machine.resume().unwrap();
        let_write(&machine, 20_000);
        for _ in 0..2 {
            let taken = machine.checkpoint(
                &store,
                CheckpointOptions { full: true, ..CheckpointOptions::default() },
                &mut |progress| {
                    // After a round is copied, the guest gets the time to write all of it anew.
                    if progress.phase == Phase::Copying && progress.pages == progress.total {
                        let_write(&machine, 8_000);
                    }
                },
            );
            let image = store.image(taken.unwrap().image).unwrap();
            let restored =
                Machine::restore(&store, &image, options(hypervisor, Wish::Auto), Box::new(io::sink()))
                    .unwrap_or_else(|e| panic!("{e}"));
            let memory = restored.check_memory().unwrap();
            assert_eq!(memory.damaged, 0, "{memory:?}");
        }
    });
}

#[test]
fn a_page_that_two_rounds_copy_is_the_newer_one() {
    on_each("two rounds", |hypervisor| {
        let (_dir, store) = store();
        let machine = create(guest(hypervisor, Wish::Auto, Pattern::Sequential));
        machine.resume().unwrap();
        let_write(&machine, 5_000);
        let mut rounds = 0;
        let taken = machine.checkpoint(&store, CheckpointOptions::default(), &mut |progress| {
            if progress.phase == Phase::Copying && progress.pages == progress.total {
                rounds += 1;
                if rounds == 1 {
                    // Everything anew, and nothing any more once the second round has copied it.
                    let_write(&machine, 5_000);
                    machine.pause().unwrap();
                }
            }
        });
        let image = store.image(taken.unwrap().image).unwrap();
        let restored =
            Machine::restore(&store, &image, options(hypervisor, Wish::Auto), Box::new(io::sink()))
                .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(restored.check_memory().unwrap().damaged, 0);
    });
}

#[test]
fn a_check_survives_a_pause_and_another_check() {
    on_each("checks", |hypervisor| {
        let machine = create(guest(hypervisor, Wish::Auto, Pattern::Uniform));
        machine.resume().unwrap();
        let_write(&machine, 100);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert_eq!(machine.check(LIMIT).unwrap().guest.damaged, 0));
            }
        });
        thread::scope(|scope| {
            let check = scope.spawn(|| machine.check(Duration::from_millis(50)));
            machine.pause().unwrap();
            thread::sleep(Duration::from_millis(100));
            // Done, or given up because the guest stood still; either way the guest is to write again.
            let _ = check.join().unwrap();
        });
        machine.resume().unwrap();
        let_write(&machine, 100);
    });
}

#[test]
fn a_machine_that_has_ended_gives_no_image() {
    on_each("ended", |hypervisor| {
        let (_dir, store) = store();
        let machine = create(guest(hypervisor, Wish::Auto, Pattern::Uniform));
        machine.resume().unwrap();
        let_write(&machine, 100);
        let ended = machine.checkpoint(&store, CheckpointOptions::default(), &mut |progress| {
            if progress.phase == Phase::Copying {
                machine.end();
            }
        });
        assert!(matches!(ended, Err(CheckpointError::Ended)), "{ended:?}");
        assert!(store.list().unwrap().images.is_empty());
        assert!(matches!(machine.resume(), Err(ringmark_machine::PauseError::Ended)));
    });
}
