//! Images with every byte flipped, cut at every length, and mixed with others.

use std::fs;
use std::path::PathBuf;

use crate::common::{Memory, assert_holds, layout, meta_file, noise, own_packs, spec};
use ringmark_dirty::SlotId;
use ringmark_image::{Image, ImageError, ImageId, Layout, Store, Verifier};

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
        let dir = std::path::Path::new(self.store.location());
        let packs = fs::read_dir(dir.join("packs")).unwrap().map(|e| e.unwrap().path());
        [self.base, self.top].map(|id| meta_file(&self.store, id)).into_iter().chain(packs).collect()
    }

    /// A store that has read nothing yet.
    fn store(&self) -> Store {
        Store::open(self.store.location()).unwrap()
    }

    /// Whether a deep verification of all images finds damage, and whether a restore of the top does; a restore that
    /// finds none has to be right.
    fn damage(&self) -> (bool, bool) {
        let store = self.store();
        let listing = store.list().unwrap();
        let mut verifier = Verifier::new(true);
        let found = listing.images.len() < 2
            || listing
                .images
                .iter()
                .any(|i| store.image(i.id).and_then(|image| verifier.check(&image)).is_err());
        let store = self.store();
        let restored = store.image(self.top).map_err(|_| ()).and_then(|image| self.restored(&image));
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
            // What a restore does not need is all that it may pass over: dead space, and of the base its metadata, its
            // state, and what the increment has instead.
            harmless += usize::from(!restored);
            flips += 1;
        }
        fs::write(&file, good).unwrap();
    }
    assert_eq!(rig.damage(), (false, false));
    eprintln!(
        "{flips} flips, all found by verify; {harmless} of them in bytes that this restore does not use"
    );
    assert!(flips > 4000 && harmless < flips * 2 / 3);
}

/// An image that shares nothing and has no dead space is all needed: a restore finds everything, too.
#[test]
fn every_flipped_byte_of_a_base_is_found_by_a_restore() {
    let rig = rig();
    let mut writer = rig.store.begin(spec(&layout(512, &[(0, 10), (1 << 24, 6)]), None)).unwrap();
    rig.memory.put_all(&mut writer).unwrap();
    writer.put_state("vcpu-0", b"other registers").unwrap();
    let alone = writer.finish().unwrap().id;
    let files = [vec![meta_file(&rig.store, alone)], own_packs(&rig.store, alone)].concat();
    assert_eq!(files.len(), 2);
    for file in files {
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, bad).unwrap();
            let restored = rig.store().image(alone).map_err(|_| ()).and_then(|image| rig.restored(&image));
            assert!(restored.is_err(), "byte {at} of {} passed a restore", file.display());
        }
        fs::write(&file, good).unwrap();
    }
    rig.restored(&rig.store().image(alone).unwrap()).unwrap();
}

#[test]
fn every_cut_and_every_addition_is_found() {
    let rig = rig();
    for file in rig.files() {
        // The base's metadata is not needed by the increment.
        let needed = file != meta_file(&rig.store, rig.base);
        let good = fs::read(&file).unwrap();
        for len in 0..good.len() {
            fs::write(&file, &good[..len]).unwrap();
            assert_eq!(rig.damage(), (true, needed), "{} cut to {len} bytes", file.display());
        }
        let mut longer = good.clone();
        longer.push(0);
        fs::write(&file, longer).unwrap();
        assert_eq!(rig.damage(), (true, needed), "{} with a byte more", file.display());
        fs::remove_file(&file).unwrap();
        assert_eq!(rig.damage(), (true, needed), "{} removed", file.display());
        fs::create_dir(&file).unwrap();
        assert_eq!(rig.damage(), (true, needed), "{} is a directory", file.display());
        fs::remove_dir(&file).unwrap();
        fs::write(&file, good).unwrap();
    }
    assert_eq!(rig.damage(), (false, false));
}

#[test]
fn files_of_another_image_are_found() {
    let rig = rig();
    let swap = |one: PathBuf, two: PathBuf| {
        let good = fs::read(&one).unwrap();
        fs::copy(two, &one).unwrap();
        assert!(rig.damage().0, "{}", one.display());
        fs::write(&one, good).unwrap();
    };
    let metas = [rig.base, rig.top].map(|id| meta_file(&rig.store, id));
    let packs = [rig.base, rig.top].map(|id| own_packs(&rig.store, id).remove(0));
    swap(metas[0].clone(), metas[1].clone());
    swap(metas[1].clone(), metas[0].clone());
    swap(packs[0].clone(), packs[1].clone());
    swap(packs[1].clone(), packs[0].clone());
    // An image under another number.
    let name =
        metas[1].file_name().unwrap().to_str().unwrap().replace("0000000000000002", "0000000000000009");
    let moved = metas[1].with_file_name(name);
    fs::rename(&metas[1], &moved).unwrap();
    assert_eq!(rig.damage(), (true, true));
    fs::rename(&moved, &metas[1]).unwrap();
    assert_eq!(rig.damage(), (false, false));
}

#[test]
fn foreign_files_and_other_versions_are_told_apart_from_damage() {
    let rig = rig();
    for file in [meta_file(&rig.store, rig.top), own_packs(&rig.store, rig.top).remove(0)] {
        let good = fs::read(&file).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            fs::write(&file, bad).unwrap();
            let checked = rig.store().image(rig.top).and_then(|image| image.verify(false));
            checked.map(drop).unwrap_err()
        };
        assert!(matches!(with(0, b"\x7fELF"), ImageError::Foreign { .. }));
        assert!(matches!(with(8, &[0; 4]), ImageError::Version { found: 0, known: 1, .. }));
        assert!(matches!(with(8, &[2, 0, 0, 0]), ImageError::Version { found: 2, known: 1, .. }));
        fs::write(&file, &good).unwrap();
    }
}
