//! Two sources side by side, one held against the other.

#![allow(clippy::unwrap_used, reason = "a test ends where anything fails")]
#![allow(unsafe_code, reason = "a write behind every source's back")]

mod common;

use std::io;

use common::{checkpoint, create, guest, let_write, on_each, store};
use ringmark_guest::Pattern;
use ringmark_machine::{
    CheckWith, CheckWithError, CheckpointError, CheckpointOptions, HypervisorWish, Loading, Machine,
    MachineConfig, RestoreOptions,
};
use ringmark_track::{Wish, WriteProtectError};

fn machine(hypervisor: HypervisorWish, tracking: Wish, pattern: Pattern) -> MachineConfig {
    MachineConfig { audit: None, ..guest(hypervisor, tracking, pattern) }
}

/// Begins the check, or says why this host has none.
fn check(machine: &Machine, with: CheckWith) -> bool {
    match machine.check_with(with) {
        Ok(()) => true,
        Err(CheckWithError::WriteProtect(WriteProtectError::Open(error))) => {
            eprintln!("SKIPPED a check with {with}: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn rings_and_bitmaps_cover_what_the_host_sees() {
    on_each("rings_and_bitmaps_cover", |hypervisor| {
        for (tracking, with) in [
            (Wish::Ring { entries: None }, CheckWith::Uffd),
            (Wish::Ring { entries: None }, CheckWith::Hash),
            (Wish::Bitmap, CheckWith::Uffd),
            (Wish::Bitmap, CheckWith::Hash),
        ] {
            let (_dir, store) = store();
            let machine = create(machine(hypervisor, tracking, Pattern::Uniform));
            if !check(&machine, with) {
                continue;
            }
            machine.resume().unwrap();
            let mut last = None;
            for number in 0..4 {
                let_write(&machine, 500);
                let taken = checkpoint(&machine, &store);
                let checked = taken.check.unwrap();
                assert_eq!(checked.with, with);
                // The cut's own pages, at least those that the guest has certified, are seen.
                assert!(checked.pages > 100, "{tracking:?} with {with}, cut {number}: {checked:?}");
                last = Some(taken.image);
            }
            drop(machine);
            let image = store.image(last.unwrap()).unwrap();
            let options =
                RestoreOptions { name: None, hypervisor, tracking, audit: None, loading: Loading::Eager };
            let restored = Machine::restore(&store, &image, options, Box::new(io::sink())).unwrap();
            assert!(check(&restored, with));
            restored.resume().unwrap();
            let_write(&restored, 500);
            assert!(checkpoint(&restored, &store).check.unwrap().pages > 100);
            assert_eq!(restored.check_memory().unwrap().damaged, 0);
        }
    });
}

/// The negative control: somebody writes guest memory and marks nothing.
#[test]
fn a_write_that_no_source_saw_is_named() {
    on_each("a_write_that_no_source_saw", |hypervisor| {
        for with in [CheckWith::Uffd, CheckWith::Hash] {
            let (_dir, store) = store();
            let machine = create(machine(hypervisor, Wish::Auto, Pattern::Zipf));
            if !check(&machine, with) {
                continue;
            }
            machine.resume().unwrap();
            let_write(&machine, 200);
            checkpoint(&machine, &store);

            let page = machine.facts().page_size;
            let address = machine.hot_region().unwrap().end.next_multiple_of(page) + 16 * page;
            write_unmarked(&machine, address, 0x5eed);
            let failed = machine.checkpoint(&store, CheckpointOptions::default(), &mut |_| {});
            let Err(error @ CheckpointError::Unseen { .. }) = &failed else {
                panic!("{with} saw nothing: {failed:?}")
            };
            let text = error.to_string();
            assert!(text.contains(&format!("guest address {address:#x}")), "{text}");
            assert!(
                text.contains(&format!("a check with {with}")) && text.contains("ought to have seen"),
                "{text}"
            );

            // The next is a base, and has the page.
            let base = checkpoint(&machine, &store);
            assert_eq!(base.parent, None);
            let mut stored = vec![0; usize::try_from(page).unwrap()];
            let slot = machine.ram().slots().iter().next().unwrap();
            let start = slot.base.0 * page;
            store.image(base.image).unwrap().page(slot.id, (address - start) / page, &mut stored).unwrap();
            assert_eq!(stored[..8], 0x5eed_u64.to_le_bytes());
        }
    });
}

#[test]
fn memory_that_arrives_lazily_has_its_userfaultfd_already() {
    on_each("memory_that_arrives_lazily", |hypervisor| {
        let (_dir, store) = store();
        let machine = create(machine(hypervisor, Wish::Auto, Pattern::Zipf));
        machine.resume().unwrap();
        let_write(&machine, 200);
        let id = checkpoint(&machine, &store).image;
        drop(machine);
        let options = RestoreOptions {
            name: None,
            hypervisor,
            tracking: Wish::Auto,
            audit: None,
            loading: Loading::Lazy,
        };
        let image = store.image(id).unwrap();
        let restored = match Machine::restore(&store, &image, options, Box::new(io::sink())) {
            Ok(restored) => restored,
            Err(error) => return eprintln!("SKIPPED memory_that_arrives_lazily: {error}"),
        };
        // Whichever is quicker, the last page or this question.
        match restored.check_with(CheckWith::Uffd) {
            Ok(()) | Err(CheckWithError::Arriving) => {}
            Err(error) => panic!("{error}"),
        }
        restored.wait_until_whole().unwrap();
        assert!(check(&restored, CheckWith::Uffd) && check(&restored, CheckWith::Hash));
        restored.resume().unwrap();
        let_write(&restored, 200);
        assert!(checkpoint(&restored, &store).check.unwrap().pages > 0);
    });
}

/// A store of this process that goes by no log.
fn write_unmarked(machine: &Machine, address: u64, value: u64) {
    let slot = machine.ram().slots().iter().next().unwrap();
    let (id, host) = machine.ram().host_addresses().next().unwrap();
    assert_eq!(id, slot.id);
    let offset = address - slot.base.0 * machine.facts().page_size;
    let place = std::ptr::with_exposed_provenance_mut::<u64>(usize::try_from(host + offset).unwrap());
    // SAFETY: an aligned word of the first memslot, which is mapped as long as the machine lives.
    unsafe { place.write_volatile(value.to_le()) };
}
