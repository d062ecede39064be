//! What the disk may hold after the power failed: only what was synced is sure to be there.
//!
//! The operations of one image are recorded and replayed up to every one of them, under the harshest reading of POSIX:
//! contents written after a file's last `fsync` may be missing or garbage, and a directory entry changed after the
//! directory's last `fsync` may be there or not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{Memory, assert_holds, layout, noise, take_base, take_increment};
use ringmark_dirty::SlotId;
use ringmark_image::{Disk, DiskFile, RealDisk, Store};

#[derive(Clone, Debug, PartialEq)]
enum Op {
    CreateDir(PathBuf),
    Create(PathBuf),
    Append(PathBuf, Vec<u8>),
    Sync(PathBuf),
    SyncDir(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Does what it is told and writes it down.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Op>>>);

#[derive(Debug)]
struct RecordedFile(Recorder, PathBuf, Arc<dyn DiskFile>);

impl Recorder {
    fn note(&self, op: Op) {
        self.0.lock().unwrap().push(op);
    }
}

impl Disk for Recorder {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.note(Op::CreateDir(path.to_owned()));
        RealDisk.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.note(Op::Create(path.to_owned()));
        Ok(Arc::new(RecordedFile(self.clone(), path.to_owned(), RealDisk.create(path)?)))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.note(Op::SyncDir(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(Op::Rename(from.to_owned(), to.to_owned()));
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.note(Op::Remove(path.to_owned()));
        RealDisk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.note(Op::Remove(path.to_owned()));
        RealDisk.remove_dir_all(path)
    }
}

impl DiskFile for RecordedFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.note(Op::Append(self.1.clone(), bytes.to_vec()));
        self.2.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.note(Op::Sync(self.1.clone()));
        Ok(())
    }
}

/// What became of bytes that were not synced.
#[derive(Clone, Copy, Debug)]
enum Unsynced {
    Kept,
    Lost,
    Garbage,
}

/// The new image's directory after a power cut behind `ops`, if a rename that was not synced has reached the disk: the
/// directory's name, and its files. A file whose entry was not synced by its directory is missing, unless kept.
fn after(ops: &[Op], unsynced: Unsynced) -> Option<(PathBuf, BTreeMap<PathBuf, Vec<u8>>)> {
    let mut contents: BTreeMap<PathBuf, (Vec<u8>, usize)> = BTreeMap::new();
    let mut sure_entries: Vec<PathBuf> = Vec::new();
    let mut place = None;
    for op in ops {
        match op {
            Op::Create(path) => drop(contents.insert(path.clone(), (Vec::new(), 0))),
            Op::Append(path, bytes) => contents.get_mut(path).unwrap().0.extend_from_slice(bytes),
            Op::Sync(path) => {
                let file = contents.get_mut(path).unwrap();
                file.1 = file.0.len();
            }
            Op::SyncDir(dir) => {
                sure_entries.extend(contents.keys().filter(|p| p.parent() == Some(dir)).cloned());
            }
            Op::Rename(_, to) => place = Some(to.clone()),
            Op::CreateDir(_) | Op::Remove(_) => {}
        }
    }
    let files = contents.into_iter().filter_map(|(path, (bytes, synced))| {
        let entry = sure_entries.contains(&path) || matches!(unsynced, Unsynced::Kept);
        let mut left = bytes[..synced].to_vec();
        match unsynced {
            Unsynced::Kept => left = bytes,
            Unsynced::Lost => {}
            Unsynced::Garbage => left.resize(bytes.len(), 0xa5),
        }
        entry.then(|| (PathBuf::from(path.file_name().unwrap()), left))
    });
    place.map(|place| (place, files.collect()))
}

/// Replays `ops` to every one of them; returns how many cuts left a new image, and how many of those it was damaged.
fn cuts(ops: &[Op], store: &Store, memory: &Memory) -> (usize, usize) {
    let (mut visible, mut damaged) = (0, 0);
    for end in 0..=ops.len() {
        for unsynced in [Unsynced::Kept, Unsynced::Lost, Unsynced::Garbage] {
            let Some((place, files)) = after(&ops[..end], unsynced) else { continue };
            if place.exists() {
                fs::remove_dir_all(&place).unwrap();
            }
            fs::create_dir(&place).unwrap();
            for (name, bytes) in files {
                fs::write(place.join(name), bytes).unwrap();
            }
            visible += 1;
            let id = place.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let whole = store.image(id).is_ok_and(|image| {
                image.verify(true).is_ok()
                    && image.state("vcpu-0").is_ok()
                    && Memory::of(&image).unwrap().difference(memory).is_none()
            });
            damaged += usize::from(!whole);
            fs::remove_dir_all(&place).unwrap();
        }
    }
    (visible, damaged)
}

#[test]
fn a_visible_image_is_a_durable_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout = layout(4096, &[(0, 20), (1 << 20, 20)]);
    let mut memory = Memory::zero(&layout);
    memory.write(SlotId::new(0, 0), 0, &noise(20 * 4096, 1));
    let before = memory.clone();
    let base = take_base(&store, &layout, &memory).unwrap().id;
    let recorder = Recorder::default();
    let recorded = store.clone().on_disk(Arc::new(recorder.clone()));
    let id = take_increment(&recorded, &layout, base, &mut memory, &[(0, 2), (1, 3)], 6).unwrap().id;
    let ops = recorder.0.lock().unwrap().clone();
    fs::remove_dir_all(store.dir().join("images").join(id.to_hex())).unwrap();

    let (visible, damaged) = cuts(&ops, &store, &memory);
    assert!(visible >= 6);
    assert_eq!(damaged, 0, "a power cut leaves a visible image that is not whole");
    assert_holds(&store, base, &before);

    // The control: leave out one sync after the other, and the cuts find it, but for the two directories that hold
    // whole images, whose rename may be lost without harm to a store that has not answered yet.
    let mut needed = Vec::new();
    for left_out in 0..ops.len() {
        if !matches!(ops[left_out], Op::Sync(_) | Op::SyncDir(_)) {
            continue;
        }
        let mut fewer = ops.clone();
        fewer.remove(left_out);
        if cuts(&fewer, &store, &memory).1 > 0 {
            needed.push(ops[left_out].clone());
        }
    }
    for file in ["pages", "index", "state-vcpu-0", "meta"] {
        let sync = |op: &&Op| matches!(op, Op::Sync(p) if p.ends_with(file));
        assert!(needed.iter().any(|op| sync(&op)), "the fsync of {file} could be left out unnoticed");
    }
    assert!(needed.iter().any(|op| matches!(op, Op::SyncDir(_))), "that of the directory could");
    // What comes after the rename is there for `finish` to be believed.
    let rename = ops.iter().position(|op| matches!(op, Op::Rename(..))).unwrap();
    let Op::Rename(from, to) = &ops[rename] else { unreachable!() };
    for parent in [from.parent().unwrap(), to.parent().unwrap()] {
        assert!(
            ops[rename..].contains(&Op::SyncDir(parent.to_owned())),
            "{} is not synced",
            parent.display()
        );
    }
}
