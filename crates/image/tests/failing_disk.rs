//! Disks that refuse an operation, `fsync` above all: the image fails, the store stays as it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::faults::{Fault, FaultyDisk, Handle};
use common::{Memory, assert_holds, layout, leftovers, noise, spec, take_base, take_increment};
use ringmark_dirty::SlotId;
use ringmark_image::{BeginError, ImageId, Layout, Store, WriteError};
use rustix::io::Errno;

struct Rig {
    _dir: tempfile::TempDir,
    store: Store,
    layout: Layout,
    memory: Memory,
    base: ImageId,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout = layout(4096, &[(0, 20), (1 << 20, 20)]);
    let mut memory = Memory::zero(&layout);
    memory.write(SlotId::new(0, 0), 0, &noise(20 * 4096, 1));
    let base = take_base(&store, &layout, &memory).unwrap().id;
    Rig { _dir: dir, store, layout, memory, base }
}

/// An attempt at an increment on a disk with `fault`; the inner error is of the writer, not of its beginning.
fn attempt(rig: &Rig, disk: &Arc<FaultyDisk>) -> Result<ImageId, Option<WriteError>> {
    let store = rig.store.clone().on_disk(Arc::new(Handle(Arc::clone(disk))));
    let mut writer = match store.begin(spec(&rig.layout, Some(rig.base))) {
        Ok(writer) => writer,
        Err(BeginError::Io { .. }) => return Err(None),
        Err(e) => panic!("{e}"),
    };
    let mut write = || {
        writer.put(SlotId::new(0, 1), 3, &noise(4096 * 3, 8))?;
        writer.put_state("vcpu-0", b"new registers")
    };
    write().and_then(|()| writer.finish()).map(|f| f.id).map_err(Some)
}

#[test]
fn every_operation_that_fails_fails_the_image() {
    let rig = rig();
    let counted = FaultyDisk::harmless();
    let ok = attempt(&rig, &counted).unwrap();
    std::fs::remove_dir_all(rig.store.dir().join("images").join(ok.to_hex())).unwrap();
    let (all, log) = (counted.count(), counted.log.lock().unwrap().clone());
    assert!(log.iter().filter(|l| l.starts_with("sync")).count() >= 7, "{log:?}");

    let mut failed = Vec::new();
    for errno in [Errno::IO, Errno::NOSPC] {
        for at in 0..all {
            let disk = FaultyDisk::new(at, Fault::Once(errno));
            let error = match attempt(&rig, &disk) {
                Err(error) => error,
                Ok(_) => panic!(
                    "operation {at} ({}) failed, and nobody noticed",
                    log[usize::try_from(at).unwrap()]
                ),
            };
            if errno == Errno::NOSPC
                && let Some(error) = error
            {
                assert!(matches!(error, WriteError::Full { .. }), "{error}");
            }
            assert_eq!(rig.store.list().unwrap().images.len(), 1, "operation {at}");
            assert_eq!(leftovers(rig.store.dir()), 0, "operation {at}");
            assert_holds(&rig.store, rig.base, &rig.memory);
            failed.push(at);
        }
    }
    eprintln!("{} failures, each noticed", failed.len());
    // And the next attempt has everything.
    let mut memory = rig.memory.clone();
    memory.write(SlotId::new(0, 1), 3, &noise(4096 * 3, 8));
    assert_holds(&rig.store, attempt(&rig, &FaultyDisk::harmless()).unwrap(), &memory);
}

/// The kernel reports a failed write-back once. The call that hears of it runs beside the writer, and every later one
/// succeeds.
#[test]
fn an_fsync_error_in_the_background_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let pages = 80 << 8;
    let layout = layout(4096, &[(0, pages)]);
    let memory = noise(80 << 20, 3);
    let log = |disk: &Arc<FaultyDisk>| -> (Result<ImageId, WriteError>, Vec<String>) {
        let store = store.clone().on_disk(Arc::new(Handle(Arc::clone(disk))));
        let mut writer = store.begin(spec(&layout, None)).unwrap();
        let mut put = || {
            memory
                .chunks(1 << 20)
                .zip(0u64..)
                .try_for_each(|(c, i)| writer.put(SlotId::new(0, 0), i * 256, c))
        };
        let result = put().and_then(|()| writer.finish()).map(|f| f.id);
        let log = disk.log.lock().unwrap().clone();
        (result, log)
    };
    let (good, names) = log(&FaultyDisk::harmless());
    good.unwrap();
    let syncs = names.iter().filter(|n| *n == "sync pages").count();
    assert!(syncs >= 2, "no fsync while writing: {syncs}");
    let background = names.iter().position(|n| n == "sync pages").unwrap() as u64;
    // Which operation it is varies a little from run to run: strike at the first fsync of the pack, by its name.
    let mut hit = 0;
    for at in background.saturating_sub(3)..background + 12 {
        let disk = FaultyDisk::new(at, Fault::Once(Errno::IO));
        let (result, names) = log(&disk);
        assert!(
            result.is_err(),
            "operation {at} ({}) failed, and nobody noticed",
            names[usize::try_from(at).unwrap()]
        );
        hit += usize::from(names[usize::try_from(at).unwrap()] == "sync pages");
    }
    eprintln!("{hit} of the failures were of an fsync in the background");
    assert_eq!(store.list().unwrap().images.len(), 1);
}

#[test]
fn an_image_that_cannot_be_made_durable_or_withdrawn_says_so() {
    let rig = rig();
    let counted = FaultyDisk::harmless();
    let ok = attempt(&rig, &counted).unwrap();
    std::fs::remove_dir_all(rig.store.dir().join("images").join(ok.to_hex())).unwrap();
    let rename = counted.log.lock().unwrap().iter().position(|n| n.starts_with("rename")).unwrap() as u64;
    let disk = FaultyDisk::new(rename + 1, Fault::Forever(Errno::IO));
    let Err(Some(WriteError::NotWithdrawn { id, .. })) = attempt(&rig, &disk) else {
        panic!("the rename is known to be undone, which it is not")
    };
    assert_eq!(rig.store.newest("vm1").unwrap().unwrap().id, id);
}

#[test]
fn a_failed_writer_repeats_its_error() {
    let rig = rig();
    // The first two make the directory and the pack.
    let disk = FaultyDisk::new(2, Fault::Forever(Errno::IO));
    let store = rig.store.clone().on_disk(Arc::new(Handle(disk)));
    let mut writer = store.begin(spec(&rig.layout, Some(rig.base))).unwrap();
    let first = writer.put_state("a", b"x").unwrap_err().to_string();
    assert_eq!(writer.put_state("b", b"x").unwrap_err().to_string(), first);
    assert_eq!(writer.put(SlotId::new(0, 0), 0, &[1; 4096]).unwrap_err().to_string(), first);
    assert_eq!(writer.put_zero(SlotId::new(0, 0), 0, 1).unwrap_err().to_string(), first);
    assert_eq!(writer.finish().unwrap_err().to_string(), first);
    // The directory could not be removed either; the next writer does it.
    assert_eq!(leftovers(rig.store.dir()), 1);
    let mut memory = rig.memory.clone();
    take_increment(&rig.store, &rig.layout, rig.base, &mut memory, &[(0, 1)], 4).unwrap();
    assert_eq!(leftovers(rig.store.dir()), 0);
}
