//! Bytes that nobody wrote, with hashes that fit them: what remains when an attacker, and not a disk, made the image.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};

use crate::index::{Extent, Index, Run, ZERO};
use crate::meta::Meta;
use crate::{ImageId, ImageSpec, Layout, Store, header};

const PAGE: usize = 512;

fn layout() -> Layout {
    let slot = |id, base, npages| Memslot { id: SlotId::new(0, id), base: Gfn(base), npages };
    let slots = SlotTable::new([slot(0, 0, 20), slot(1, 1 << 24, 9)]).unwrap();
    Layout::new(PageSize::new(PAGE as u64).unwrap(), slots).unwrap()
}

/// A store with one small image, and the image.
fn image(dir: &Path) -> (Store, ImageId) {
    let store = Store::create_or_open(dir.join("store")).unwrap();
    let layout = layout();
    let spec = ImageSpec {
        vm: "vm".to_owned(),
        parent: None,
        layout: layout.clone(),
        created: std::time::UNIX_EPOCH,
    };
    let mut writer = store.begin(spec).unwrap();
    for slot in layout.slots().iter() {
        for page in 0..slot.npages {
            let byte = u8::try_from(page).unwrap();
            writer.put(slot.id, page, &[byte; PAGE]).unwrap();
        }
    }
    writer.put_state("a", b"state").unwrap();
    let id = writer.finish().unwrap().id;
    (store, id)
}

/// Changes the index of image `id` and makes all hashes fit again; the new identity.
fn forge(store: &Store, id: ImageId, change: impl FnOnce(&mut Vec<u8>, &mut Meta)) -> ImageId {
    let old = store.image_dir(id);
    let (mut meta, _) = store.meta(id).unwrap();
    let mut index = fs::read(old.join("index")).unwrap();
    change(&mut index, &mut meta);
    fs::write(old.join("index"), &index).unwrap();
    meta.index.len = index.len() as u64;
    meta.index.blake3 = blake3::hash(&index);
    let bytes = meta.encode().unwrap();
    fs::write(old.join("meta"), &bytes).unwrap();
    let forged = ImageId::of(&bytes);
    fs::rename(old, store.image_dir(forged)).unwrap();
    forged
}

/// Reads the image in every way; whatever it is, nothing panics.
fn read(store: &Store, id: ImageId) -> bool {
    let Ok(image) = store.image(id) else { return false };
    let _ = image.verify(true);
    let mut buf = [0; PAGE];
    for slot in layout().slots().iter() {
        for page in 0..slot.npages {
            let _ = image.page(slot.id, page, &mut buf);
        }
    }
    let mut seen = 0;
    let restored = image.restore(|slot, first, bytes| {
        let slot = *layout().slots().get(slot).expect("a slot of the layout");
        assert!(first + (bytes.len() / PAGE) as u64 <= slot.npages, "a page past the end of its slot");
        seen += bytes.len();
        Ok::<_, std::convert::Infallible>(())
    });
    assert!(seen <= 29 * PAGE, "more pages than the memory has");
    restored.is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_no_metadata(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = header::encode(header::META).to_vec();
        bytes.extend_from_slice(&noise);
        prop_assert!(Meta::decode(&bytes).is_err());
        prop_assert!(Meta::decode(&noise).is_err());
    }

    #[test]
    fn changed_metadata_is_refused_or_means_something(
        at in any::<prop::sample::Index>(),
        new in any::<u8>(),
        insert in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = image(dir.path());
        let mut bytes = fs::read(store.image_dir(id).join("meta")).unwrap();
        let at = header::LEN + at.index(bytes.len() - header::LEN);
        if insert { bytes.insert(at, new) } else { bytes[at] = new }
        if let Ok(meta) = Meta::decode(&bytes) {
            prop_assert!(meta.zero_pages <= meta.pages && meta.pages <= meta.layout.pages());
            let forged = ImageId::of(&bytes);
            fs::write(store.image_dir(id).join("meta"), &bytes).unwrap();
            fs::rename(store.image_dir(id), store.image_dir(forged)).unwrap();
            read(&store, forged);
        }
    }

    #[test]
    fn noise_is_no_index(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        counts in prop::array::uniform3(0u64..8),
        pack in 0u64..5000,
    ) {
        // With counts that fit often enough, so that the entries are looked at.
        let mut bytes = header::encode(header::INDEX).to_vec();
        bytes.extend(counts.iter().flat_map(|c| c.to_le_bytes()));
        let len = usize::try_from(counts[0] * 8 + counts[1] * 20 + counts[2] * 8).unwrap();
        bytes.extend(noise.iter().cycle().take(if noise.is_empty() { 0 } else { len }));
        if let Ok(index) = Index::decode(&bytes, &layout(), pack) {
            prop_assert_eq!(index.encode(), bytes);
        }
        let _ = Index::decode(&noise, &layout(), pack);
    }

    #[test]
    fn a_forged_index_harms_nobody(at in any::<prop::sample::Index>(), new in any::<u64>(), width in 1usize..9) {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = image(dir.path());
        let forged = forge(&store, id, |index, _| {
            let at = at.index(index.len());
            for (byte, new) in index[at..].iter_mut().zip(&new.to_le_bytes()[..width]) {
                *byte = *new;
            }
        });
        read(&store, forged);
    }
}

/// Each rule of the index, broken with everything else right.
#[test]
fn every_rule_of_the_index_is_kept() {
    let extent = |len, pages, encoding| Extent { offset: 0, len, pages, encoding };
    let run = |slot, first, npages, extent, skip| Run { slot, first, npages, extent, skip, hash: 0 };
    use crate::encode::Encoding::{Raw, Zstd};
    let good = Index {
        extents: vec![extent(1024, 2, Raw), extent(10, 3, Zstd)],
        runs: vec![run(0, 0, 2, 0, 0), run(0, 2, 18, ZERO, 0), run(1, 0, 3, 1, 0)],
        hashes: vec![1, 2, 3, 4, 5],
    };
    let pack = header::LEN as u64 + 1034;
    let check = |index: &Index| Index::decode(&index.encode(), &layout(), pack);
    let read = check(&good).unwrap();
    assert_eq!((read.extents[1].offset, read.runs[2].hash, read.pages()), (16 + 1024, 2, (23, 18)));

    let broken = |change: &dyn Fn(&mut Index)| {
        let mut index = good.clone();
        change(&mut index);
        check(&index).expect_err("a broken rule")
    };
    for (change, word) in [
        (&(|i: &mut Index| i.extents[0].pages = 0) as &dyn Fn(&mut Index), "extent 0"),
        (&|i| i.extents[0].pages = 257, "extent 0"),
        (&|i| i.extents[0].len = 1023, "extent 0"),
        (&|i| i.extents[1].len = 0, "extent 1"),
        (&|i| i.extents[1].len = 1536, "extent 1"),
        (&|i| i.extents[1].len = 11, "end at byte"),
        (&|i| i.runs[0].npages = 0, "run 0"),
        (&|i| i.runs[0].slot = 7, "run 0"),
        (&|i| i.runs[1].npages = 19, "run 1"),
        (&|i| i.runs[1].first = 1, "overlaps"),
        (&|i| i.runs.swap(0, 2), "out of order"),
        (&|i| i.runs[0].skip = 1, "within an extent"),
        (&|i| i.runs[1].skip = 1, "within an extent"),
        (&|i| i.runs[0].extent = 2, "within an extent"),
        (&|i| i.runs[0].skip = u32::MAX, "within an extent"),
        (&|i| i.hashes.push(0), "hashes"),
        (&|i| i.hashes.truncate(4), "hashes"),
    ] {
        let said = broken(change);
        assert!(said.contains(word), "{said:?} says nothing of {word:?}");
    }
    let mut bytes = good.encode();
    // Counts whose sum overflows 64 bits.
    bytes[header::LEN..header::LEN + 8].copy_from_slice(&(u64::MAX / 4).to_le_bytes());
    assert!(Index::decode(&bytes, &layout(), pack).is_err());
}

/// An image whose index is right but promises what it does not have.
#[test]
fn a_base_that_misses_pages_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, id) = image(dir.path());
    let forged = forge(&store, id, |bytes, meta| {
        let mut index = Index::decode(bytes, &meta.layout, meta.pack.len).unwrap();
        let last = index.runs.pop().unwrap();
        index.hashes.truncate(usize::try_from(last.hash).unwrap());
        (meta.pages, meta.zero_pages) = index.pages();
        *bytes = index.encode();
    });
    assert!(store.image(forged).unwrap_err().to_string().contains("misses pages"));
}
