//! Writers that are killed: at every operation on the disk, before it and within it.

use std::process::Command;
use std::sync::Arc;

use crate::common::disk_faults::{Fault, FaultyDisk, Handle};
use crate::common::{
    Memory, assert_holds, layout, left_by_sweeps, leftovers, meta_file, noise, on_disk, own_packs, spec,
    take_base, take_increment,
};
use ringmark_dirty::SlotId;
use ringmark_image::{Layout, Store};

const DIRTY: [(u16, u64); 5] = [(0, 0), (0, 7), (1, 3), (1, 4), (1, 5)];

fn shape() -> Layout {
    layout(4096, &[(0, 20), (1 << 20, 20)])
}

fn first_memory() -> Memory {
    let mut memory = Memory::zero(&shape());
    memory.write(SlotId::new(0, 0), 0, &noise(20 * 4096, 1));
    memory
}

/// What the killed process does: an increment to the newest image.
#[test]
#[ignore = "started by the other tests, in a process of its own"]
fn child() {
    let dir = std::env::var("RINGMARK_TEST_STORE").unwrap();
    let at = std::env::var("RINGMARK_TEST_AT").unwrap().parse().unwrap();
    let fault = match std::env::var("RINGMARK_TEST_FAULT").unwrap().as_str() {
        "within" => Fault::KillWithin,
        _ => Fault::KillBefore,
    };
    let store = on_disk(&Store::open(dir).unwrap(), Arc::new(Handle(FaultyDisk::new(at, fault))));
    let parent = store.newest("vm1").unwrap().unwrap().id;
    let mut memory = first_memory();
    take_increment(&store, &shape(), parent, &mut memory, &DIRTY, 5).unwrap();
}

/// Runs the child; `true` if it was killed.
fn run(store: &str, at: u64, fault: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--ignored", "-q"])
        .env("RINGMARK_TEST_STORE", store)
        .env("RINGMARK_TEST_AT", at.to_string())
        .env("RINGMARK_TEST_FAULT", fault)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success() || status.code().is_none(), "the child failed by itself: {status}");
    !status.success()
}

fn killed_at_every_operation(fault: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let before = first_memory();
    let base = take_base(&store, &shape(), &before).unwrap().id;
    let mut after = before.clone();
    for (slot, page) in DIRTY {
        after.write(SlotId::new(0, slot), page, &noise(4096, 5 ^ page));
    }

    let (mut at, mut vanished, mut appeared) = (0, 0, 0);
    while run(store.location(), at, fault) {
        assert_holds(&store, base, &before);
        let listing = store.list().unwrap();
        assert!(listing.damaged.is_empty(), "killed {fault} operation {at}: {:?}", listing.damaged);
        match &listing.images[..] {
            [only] => {
                assert_eq!(only.id, base);
                vanished += 1;
            }
            [new, old] => {
                // Killed after it had become visible: it has to be whole.
                assert_eq!((new.parent, old.id), (Some(base), base));
                assert_holds(&store, new.id, &after);
                store.remove(&[new.id]).unwrap();
                appeared += 1;
            }
            more => panic!("{} images", more.len()),
        }
        // The next writer removes what is left, and works.
        let writer = store.begin(spec(&shape(), Some(base))).unwrap();
        assert_eq!(leftovers(&store), 1, "killed {fault} operation {at}: leftovers were not swept");
        drop(writer);
        assert_eq!(leftovers(&store), 0);
        at += 1;
    }
    // The child that was not killed has finished its image.
    assert_holds(&store, store.newest("vm1").unwrap().unwrap().id, &after);
    assert!(vanished >= 8 && appeared >= 1, "{vanished} kills before, {appeared} after the rename");
    eprintln!("{at} kills {fault} an operation: {vanished} left no image, {appeared} a whole one");
}

#[test]
fn killed_before_every_operation() {
    killed_at_every_operation("before");
}

#[test]
fn killed_within_every_operation() {
    killed_at_every_operation("within");
}

/// What the other killed process does: a base that goes to the disk directly.
#[test]
#[ignore = "started by the other tests, in a process of its own"]
fn large_child() {
    let dir = std::env::var("RINGMARK_TEST_STORE").unwrap();
    let at = std::env::var("RINGMARK_TEST_AT").unwrap().parse().unwrap();
    let disk = FaultyDisk::new(at, Fault::KillWithin);
    let store = on_disk(&Store::open(dir).unwrap(), Arc::new(Handle(Arc::clone(&disk))));
    take_base(&store, &large(), &large_memory()).unwrap();
    println!("DIRECT {}", disk.log.lock().unwrap().iter().filter(|l| l.starts_with("append_direct")).count());
}

fn large() -> Layout {
    layout(4096, &[(0, 6 << 8)])
}

fn large_memory() -> Memory {
    let mut memory = Memory::zero(&large());
    memory.write(SlotId::new(0, 0), 0, &noise(6 << 20, 2));
    memory
}

#[test]
fn killed_within_direct_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    for at in 0u64.. {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::large_child", "--ignored", "--nocapture"])
            .env("RINGMARK_TEST_STORE", store.location())
            .env("RINGMARK_TEST_AT", at.to_string())
            .output()
            .unwrap();
        let listing = store.list().unwrap();
        assert!(listing.damaged.is_empty(), "killed within operation {at}: {:?}", listing.damaged);
        assert!(listing.images.len() <= 1);
        for image in &listing.images {
            assert_holds(&store, image.id, &large_memory());
            store.remove(&[image.id]).unwrap();
        }
        if output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("DIRECT 2"), "{said}");
            break;
        }
        assert!(output.status.code().is_none(), "the child failed by itself: {}", output.status);
        assert_eq!(left_by_sweeps(&store), 0, "killed within operation {at}");
    }
}

/// The control: an image that became visible before it was written is found out by the checks above.
#[test]
fn a_visible_half_of_an_image_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let id = take_base(&store, &shape(), &first_memory()).unwrap().id;
    for file in [meta_file(&store, id), own_packs(&store, id).remove(0)] {
        let kept = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(store.image(id).is_err());
        std::fs::write(&file, &kept[..kept.len() / 2]).unwrap();
        assert!(store.image(id).is_err());
        std::fs::write(&file, kept).unwrap();
    }
    assert_holds(&store, id, &first_memory());
}
