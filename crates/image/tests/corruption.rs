//! Images with every byte flipped, cut at every length, and mixed with others.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Memory, assert_holds, layout, noise, spec};
use ringmark_dirty::SlotId;
use ringmark_image::{Image, ImageError, ImageId, Layout, Store};

struct Rig {
    _dir: tempfile::TempDir,
    store: Store,
    memory: Memory,
    base: ImageId,
    top: ImageId,
}

/// A chain of two small images: raw and compressed extents, zero pages, dead space, two parts of state.
fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    let layout: Layout = layout(512, &[(0, 10), (1 << 24, 6)]);
    let (low, high) = (SlotId::new(0, 0), SlotId::new(0, 1));
    let mut memory = Memory::zero(&layout);
    memory.write(low, 2, &noise(512 * 3, 1));
    memory.write(high, 1, &[b'x'; 512 * 4]);
    let mut writer = store.begin(spec(&layout, None)).unwrap();
    writer.put(low, 0, &noise(512, 77)).unwrap();
    memory.put_all(&mut writer).unwrap();
    writer.put_state("vcpu-0", b"registers").unwrap();
    let base = writer.finish().unwrap().id;
    let mut writer = store.begin(spec(&layout, Some(base))).unwrap();
    for (slot, page, bytes) in [(low, 3, noise(512, 5)), (low, 4, vec![0; 512]), (high, 0, vec![b'y'; 1024])]
    {
        memory.write(slot, page, &bytes);
        writer.put(slot, page, &bytes).unwrap();
    }
    writer.put_state("vcpu-0", b"other registers").unwrap();
    let top = writer.finish().unwrap().id;
    assert_holds(&store, top, &memory);
    Rig { _dir: dir, store, memory, base, top }
}

impl Rig {
    fn files(&self) -> Vec<PathBuf> {
        let dirs = [self.base, self.top].map(|id| self.store.dir().join("images").join(id.to_hex()));
        dirs.iter().flat_map(|d| fs::read_dir(d).unwrap()).map(|e| e.unwrap().path()).collect()
    }

    /// Whether `verify(deep)` finds damage, and whether a restore does; a restore that finds none has to be right.
    fn damage(&self) -> (bool, bool) {
        let opened = self.store.image(self.top);
        let found = opened.as_ref().map_or(true, |image| image.verify(true).is_err());
        let restored = opened.map_err(|_| ()).and_then(|image| self.restored(&image));
        (found, restored.is_err())
    }

    fn restored(&self, image: &Image) -> Result<(), ()> {
        let state = image.state("vcpu-0").map_err(|_| ())?;
        let memory = Memory::of(image).map_err(|_| ())?;
        assert_eq!(memory.difference(&self.memory), None, "a restore returned wrong contents");
        assert_eq!(state, b"other registers");
        Ok(())
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let rig = rig();
    let (mut flips, mut harmless) = (0, 0);
    for file in rig.files() {
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&file, bad).unwrap();
            let (verified, restored) = rig.damage();
            assert!(verified, "byte {at} of {} passed verify", file.display());
            // What a restore does not need is all that it may pass over: dead space and the base's state.
            harmless += usize::from(!restored);
            flips += 1;
        }
        fs::write(&file, good).unwrap();
    }
    assert_eq!(rig.damage(), (false, false));
    eprintln!(
        "{flips} flips, all found by verify; {harmless} of them in bytes that this restore does not use"
    );
    assert!(flips > 3000 && harmless < flips / 2);
}

#[test]
fn every_cut_and_every_addition_is_found() {
    let rig = rig();
    for file in rig.files() {
        let good = fs::read(&file).unwrap();
        for len in 0..good.len() {
            fs::write(&file, &good[..len]).unwrap();
            assert_eq!(rig.damage(), (true, true), "{} cut to {len} bytes", file.display());
        }
        let mut longer = good.clone();
        longer.push(0);
        fs::write(&file, longer).unwrap();
        assert_eq!(rig.damage(), (true, true), "{} with a byte more", file.display());
        fs::remove_file(&file).unwrap();
        assert_eq!(rig.damage(), (true, true), "{} removed", file.display());
        fs::create_dir(&file).unwrap();
        assert_eq!(rig.damage(), (true, true), "{} is a directory", file.display());
        fs::remove_dir(&file).unwrap();
        fs::write(&file, good).unwrap();
    }
    assert_eq!(rig.damage(), (false, false));
}

#[test]
fn files_of_another_image_are_found() {
    let rig = rig();
    let dirs = [rig.base, rig.top].map(|id| rig.store.dir().join("images").join(id.to_hex()));
    for name in ["meta", "index", "pages", "state-vcpu-0"] {
        let good = fs::read(dirs[1].join(name)).unwrap();
        fs::copy(dirs[0].join(name), dirs[1].join(name)).unwrap();
        assert_eq!(rig.damage(), (true, true), "{name} of the base in the increment");
        fs::write(dirs[1].join(name), good).unwrap();
    }
    assert_eq!(rig.damage(), (false, false));
}

#[test]
fn foreign_files_and_other_versions_are_told_apart_from_damage() {
    let rig = rig();
    let dir = rig.store.dir().join("images").join(rig.top.to_hex());
    for name in ["meta", "pages"] {
        let good = fs::read(dir.join(name)).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            fs::write(dir.join(name), bad).unwrap();
            rig.store.image(rig.top).map(drop).unwrap_err()
        };
        assert!(matches!(with(0, b"\x7fELF"), ImageError::Foreign { .. }));
        assert!(matches!(with(8, &[0; 4]), ImageError::Version { found: 0, known: 1, .. }));
        assert!(matches!(with(8, &[2, 0, 0, 0]), ImageError::Version { found: 2, known: 1, .. }));
        fs::write(dir.join(name), &good).unwrap();
    }
}
