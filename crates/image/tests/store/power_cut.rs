//! What the disk may hold after the power failed: only what was synced is sure to be there.
//!
//! The operations of one image are recorded and replayed up to every one of them, under the harshest reading of POSIX:
//! contents written after a file's last `fsync` may be missing or garbage, and a directory entry changed after the
//! directory's last `fsync` may be there or not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::common::{Memory, assert_holds, layout, noise, on_disk, take_base, take_increment};
use ringmark_dirty::SlotId;
use ringmark_image::{Disk, DiskFile, Durability, RealDisk, Store};

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
}

impl DiskFile for RecordedFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.note(Op::Append(self.1.clone(), bytes.to_vec()));
        self.2.append(bytes)
    }

    fn append_direct(&self, pieces: &[&[u8]]) -> io::Result<bool> {
        self.0.note(Op::Append(self.1.clone(), pieces.concat()));
        self.2.append_direct(pieces)
    }

    fn start_sync(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
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

/// The files that are there after a power cut behind `ops`, but for those with unfinished names. A rename that its
/// directory did not sync has reached the disk if `renamed` says so of the directory.
fn after(ops: &[Op], unsynced: Unsynced, renamed: impl Fn(&str) -> bool) -> Vec<(PathBuf, Vec<u8>)> {
    let mut contents: BTreeMap<PathBuf, (Vec<u8>, usize)> = BTreeMap::new();
    // New names, and whether they are sure.
    let mut names: BTreeMap<PathBuf, (PathBuf, bool)> = BTreeMap::new();
    for op in ops {
        match op {
            Op::Create(path) => drop(contents.insert(path.clone(), (Vec::new(), 0))),
            Op::Append(path, bytes) => contents.get_mut(path).unwrap().0.extend_from_slice(bytes),
            Op::Sync(path) => {
                let file = contents.get_mut(path).unwrap();
                file.1 = file.0.len();
            }
            Op::SyncDir(dir) => {
                let within = names.iter_mut().filter(|(to, _)| to.parent() == Some(dir));
                within.for_each(|(_, (_, sure))| *sure = true);
            }
            Op::Rename(from, to) => drop(names.insert(to.clone(), (from.clone(), false))),
            Op::CreateDir(_) | Op::Remove(_) => {}
        }
    }
    let of_dir = |path: &Path| path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let there = names.into_iter().filter(|(to, (_, sure))| *sure || renamed(&of_dir(to)));
    there
        .map(|(to, (from, _))| {
            let (bytes, synced) = &contents[&from];
            let mut left = bytes[..*synced].to_vec();
            match unsynced {
                Unsynced::Kept => left.clone_from(bytes),
                Unsynced::Lost => {}
                Unsynced::Garbage => left.resize(bytes.len(), 0xa5),
            }
            (to, left)
        })
        .collect()
}

/// Replays `ops` to every one of them; returns how many cuts left the image visible, and how many of those it was damaged.
fn cuts(ops: &[Op], location: &str, memory: &Memory) -> (usize, usize) {
    let (mut visible, mut damaged) = (0, 0);
    for end in 0..=ops.len() {
        for unsynced in [Unsynced::Kept, Unsynced::Lost, Unsynced::Garbage] {
            for renamed in [&["packs"][..], &["images"], &["packs", "images"], &[]] {
                let files = after(&ops[..end], unsynced, |dir| renamed.contains(&dir));
                for (path, bytes) in &files {
                    fs::write(path, bytes).unwrap();
                }
                let store = Store::open(location).unwrap();
                let entries = fs::read_dir(Path::new(location).join("images")).unwrap().count();
                if entries > 1 {
                    visible += 1;
                    let whole =
                        store.newest("vm1").unwrap().filter(|i| i.parent.is_some()).is_some_and(|new| {
                            store.image(new.id).is_ok_and(|image| {
                                image.verify(true).is_ok()
                                    && image.state("vcpu-0").is_ok()
                                    && Memory::of(&image).unwrap().difference(memory).is_none()
                            })
                        });
                    damaged += usize::from(!whole);
                }
                files.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
            }
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
    let recorded = on_disk(&store, Arc::new(recorder.clone()));
    let id = take_increment(&recorded, &layout, base, &mut memory, &[(0, 2), (1, 3)], 6).unwrap().id;
    let ops = recorder.0.lock().unwrap().clone();
    store.remove(&[id]).unwrap();

    let (visible, damaged) = cuts(&ops, store.location(), &memory);
    assert!(visible >= 6, "{visible}");
    assert_eq!(damaged, 0, "a power cut leaves a visible image that is not whole");
    assert_holds(&store, base, &before);

    // The control: leave out one sync after the other, and the cuts find it, but for that of the directory of images,
    // whose rename may be lost without harm to a store that has not answered yet.
    let mut needed = Vec::new();
    for left_out in 0..ops.len() {
        if !matches!(ops[left_out], Op::Sync(_) | Op::SyncDir(_)) {
            continue;
        }
        let mut fewer = ops.clone();
        fewer.remove(left_out);
        if cuts(&fewer, store.location(), &memory).1 > 0 {
            needed.push(ops[left_out].clone());
        }
    }
    let is_in = |path: &Path, dir: &str| path.to_str().unwrap().contains(dir);
    for dir in ["/packs/", "/images/"] {
        let sync = needed.iter().any(|op| matches!(op, Op::Sync(p) if is_in(p, dir)));
        assert!(sync, "the fsync of the file in {dir} could be left out unnoticed");
    }
    let packs = needed.iter().any(|op| matches!(op, Op::SyncDir(p) if p.ends_with("packs")));
    assert!(packs, "that of the directory of packs could");
    // What comes after the last rename is there for `finish` to be believed.
    let rename = ops.iter().rposition(|op| matches!(op, Op::Rename(..))).unwrap();
    assert!(ops[rename..].iter().any(|op| matches!(op, Op::SyncDir(p) if p.ends_with("images"))));
}

/// Without the promise of durability nothing waits for the disk, and the image is as visible and as whole.
#[test]
fn no_durability_syncs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout = layout(4096, &[(0, 5000)]);
    let mut memory = Memory::zero(&layout);
    memory.write(SlotId::new(0, 0), 0, &noise(5000 * 4096, 1));
    let recorder = Recorder::default();
    let recorded = on_disk(&store, Arc::new(recorder.clone())).durability(Durability::None);
    let id = take_base(&recorded, &layout, &memory).unwrap().id;
    assert_holds(&store, id, &memory);
    let ops = recorder.0.lock().unwrap();
    assert!(!ops.iter().any(|op| matches!(op, Op::Sync(_) | Op::SyncDir(_))), "{} operations", ops.len());
}
