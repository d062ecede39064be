//! Machines move within one process, over a socket.

#![allow(clippy::unwrap_used, reason = "a test ends where anything fails")]

mod common;
#[path = "common/moving.rs"]
mod moving;

use std::io;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use common::{checkpoint, create, guest, let_write, on_each, store};
use moving::{arrivals, connector, listener, migrate, moved};
use ringmark_guest::Pattern;
use ringmark_machine::{
    ArrivalOptions, Arrivals, CheckpointError, CheckpointOptions, End, Hypervisor, HypervisorWish, Loading,
    Machine, MachineConfig, RestoreOptions, RunState,
};
use ringmark_migrate::receive::{ReceiveError, ReceiveOptions, receive};
use ringmark_migrate::report::MemoryBy;
use ringmark_migrate::send::{DepartError, MemoryWish, SendOptions, SourceGuest};
use ringmark_track::{AuditRate, Wish};

const LIMIT: Duration = Duration::from_secs(60);

fn checked(machine: &Machine) {
    let report = machine.check(LIMIT).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((report.guest.damaged, report.memory.damaged), (0, 0), "{report:?}");
    assert!(report.memory.lanes > 0);
}

fn unaudited(hypervisor: HypervisorWish, tracking: Wish, pattern: Pattern) -> MachineConfig {
    MachineConfig { audit: None, ..guest(hypervisor, tracking, pattern) }
}

#[test]
fn a_machine_moves_there_and_back_while_its_guest_writes() {
    on_each("a machine moves there and back", |hypervisor| {
        for (tracking, pattern) in [
            (Wish::Auto, Pattern::Sequential),
            (Wish::Bitmap, Pattern::Uniform),
            (Wish::Auto, Pattern::Rewrite),
        ] {
            let mut machine = create(unaudited(hypervisor, tracking, pattern));
            machine.resume().unwrap();
            let options = SendOptions {
                memory: MemoryWish::Copy,
                streams: 2,
                verify_full: true,
                audit: Some(AuditRate::EVERY_PAGE),
                ..SendOptions::default()
            };
            for _ in 0..4 {
                let_write(&machine, 500);
                let before = machine.pages_written().unwrap();
                let (report, next) = moved(&machine, &options, hypervisor);
                assert_eq!(report.verified, "full");
                assert_eq!(machine.outcome().unwrap().unwrap(), End::Left);
                assert!(next.pages_written().unwrap() >= before, "the guest has lost pages");
                drop(std::mem::replace(&mut machine, next));
                let_write(&machine, 500);
                checked(&machine);
            }
        }
    });
}

/// On `/dev/kvm` memory stays where it is; the engine's is copied.
#[test]
fn a_machine_moves_with_its_memory_as_it_is() {
    on_each("a machine moves with its memory as it is", |hypervisor| {
        let mut machine = create(unaudited(hypervisor, Wish::Auto, Pattern::Uniform));
        let lent = machine.facts().hypervisor == Hypervisor::Kvm && cfg!(target_arch = "x86_64");
        machine.resume().unwrap();
        for verify_full in [false, true, false] {
            let_write(&machine, 500);
            let before = machine.pages_written().unwrap();
            let options = SendOptions { verify_full, ..SendOptions::default() };
            let (report, next) = moved(&machine, &options, hypervisor);
            assert_eq!(report.memory, if lent { MemoryBy::Descriptor } else { MemoryBy::Copy });
            assert!(next.pages_written().unwrap() >= before, "the guest has lost pages");
            let_write(&next, 500);
            // The source, which is still here, has let go of what both have mapped.
            checked(&next);
            drop(std::mem::replace(&mut machine, next));
            let_write(&machine, 500);
            checked(&machine);
        }
    });
}

#[test]
fn what_arrived_is_checkpointed_and_restored() {
    on_each("what arrived is checkpointed", |hypervisor| {
        for memory in [MemoryWish::Copy, MemoryWish::Auto] {
            arrived_and_restored(hypervisor, memory);
        }
    });
}

fn arrived_and_restored(hypervisor: HypervisorWish, memory: MemoryWish) {
    let (_dir, store) = store();
    let machine = create(unaudited(hypervisor, Wish::Auto, Pattern::Zipf));
    machine.resume().unwrap();
    checkpoint(&machine, &store);
    let (_, arrived) = moved(&machine, &SendOptions { memory, ..SendOptions::default() }, hypervisor);
    drop(machine);
    let_write(&arrived, 500);
    let base = checkpoint(&arrived, &store);
    assert_eq!(base.parent, None, "nothing is known here of what was written since the last image");
    let_write(&arrived, 500);
    let increment = checkpoint(&arrived, &store);
    assert_eq!(increment.parent, Some(base.image));
    drop(arrived);
    let options =
        RestoreOptions { name: None, hypervisor, tracking: Wish::Auto, audit: None, loading: Loading::Eager };
    let image = store.image(increment.image).unwrap();
    let restored = Machine::restore(&store, &image, options, Box::new(io::sink())).unwrap();
    restored.resume().unwrap();
    let_write(&restored, 500);
    checked(&restored);
}

/// The migration fails after pages were sent; the machine goes on, and its next checkpoint is an increment that holds all
/// that the failed migration had taken from the tracker.
#[test]
fn a_failed_migration_costs_the_next_checkpoint_nothing() {
    on_each("a failed migration costs nothing", |hypervisor| {
        let (_dir, store) = store();
        // Audited at each checkpoint: a page that the failed migration kept would be an escape.
        let machine = create(guest(hypervisor, Wish::Auto, Pattern::Uniform));
        machine.resume().unwrap();
        let base = checkpoint(&machine, &store);
        for _ in 0..3 {
            let_write(&machine, 300);
            let dir = tempfile::tempdir().unwrap();
            let listener = listener(dir.path());
            let (cancel, stop) = (AtomicBool::new(false), AtomicBool::new(false));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut arrivals = Arrivals::new(arrivals(hypervisor), || Box::new(io::sink()) as Box<_>);
                    let stop = &stop;
                    let ended = receive(
                        listener,
                        &mut arrivals,
                        &ReceiveOptions::default(),
                        stop,
                        &mut || None,
                        &mut |_| {},
                    );
                    assert!(matches!(ended, Err(ReceiveError::Stopped)));
                });
                let to = connector(dir.path());
                let mut busy = false;
                let options = SendOptions { memory: MemoryWish::Copy, ..SendOptions::default() };
                let sent = machine.migrate(&to, &options, &cancel, &mut |_| {
                    assert!(machine.is_migrating());
                    let taken = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {});
                    assert!(matches!(taken, Err(CheckpointError::Busy)));
                    busy = true;
                    cancel.store(true, std::sync::atomic::Ordering::SeqCst);
                });
                let error = sent.unwrap_err();
                assert!(matches!(error.departure(), Some(DepartError::Cancelled)), "{error}");
                assert_eq!(error.guest(), Some(SourceGuest::RunsOn));
                assert!(busy && !machine.is_migrating());
                stop.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            let_write(&machine, 300);
        }
        let taken = checkpoint(&machine, &store);
        assert_eq!(taken.parent, Some(base.image), "the chain goes on");
        assert!(taken.stored.pages < machine.facts().memory / machine.facts().page_size);
        checked(&machine);
        let options = RestoreOptions {
            name: None,
            hypervisor,
            tracking: Wish::Auto,
            audit: Some(AuditRate::EVERY_PAGE),
            loading: Loading::Eager,
        };
        let image = store.image(taken.image).unwrap();
        let restored = Machine::restore(&store, &image, options, Box::new(io::sink())).unwrap();
        assert_eq!(restored.check_memory().unwrap().damaged, 0);
        // And it can still leave.
        moved(&machine, &SendOptions::default(), hypervisor);
    });
}

#[test]
fn a_paused_machine_arrives_paused() {
    on_each("a paused machine arrives paused", |hypervisor| {
        let machine = create(unaudited(hypervisor, Wish::Auto, Pattern::Sequential));
        machine.resume().unwrap();
        let_write(&machine, 100);
        machine.pause().unwrap();
        let written = machine.pages_written().unwrap();
        let (_, arrived) = moved(&machine, &SendOptions::default(), hypervisor);
        assert_eq!(arrived.run_state(), RunState::Paused);
        assert_eq!(arrived.pages_written().unwrap(), written);
        arrived.resume().unwrap();
        let_write(&arrived, 100);
        checked(&arrived);
    });
}

#[test]
fn a_machine_restored_lazily_leaves_whole() {
    on_each("a machine restored lazily leaves whole", |hypervisor| {
        let (_dir, store) = store();
        let machine = create(unaudited(hypervisor, Wish::Auto, Pattern::Uniform));
        machine.resume().unwrap();
        let_write(&machine, 1500);
        let image = store.image(checkpoint(&machine, &store).image).unwrap();
        drop(machine);
        let options = RestoreOptions {
            name: None,
            hypervisor,
            tracking: Wish::Auto,
            audit: None,
            loading: Loading::Lazy,
        };
        let restored = match Machine::restore(&store, &image, options, Box::new(io::sink())) {
            Ok(restored) => restored,
            Err(error) => return eprintln!("SKIPPED a machine restored lazily leaves whole: {error}"),
        };
        restored.resume().unwrap();
        let (_, arrived) = moved(&restored, &SendOptions::default(), hypervisor);
        drop(restored);
        let_write(&arrived, 500);
        checked(&arrived);
    });
}

#[test]
fn a_host_that_cannot_run_it_says_so_before_any_page_is_sent() {
    let machine = create(unaudited(HypervisorWish::Engine, Wish::Auto, Pattern::Sequential));
    machine.resume().unwrap();
    let refused = |options: ArrivalOptions, word: &str| {
        let (sent, _) = migrate(&machine, &SendOptions::default(), options);
        let error = sent.unwrap_err();
        assert!(matches!(error.departure(), Some(DepartError::Refused(_))), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(
        ArrivalOptions { most_memory: Some(1 << 20), ..arrivals(HypervisorWish::Auto) },
        "bytes of memory",
    );
    refused(arrivals(HypervisorWish::Kvm), "engine");
    let_write(&machine, 100);
    checked(&machine);
}
