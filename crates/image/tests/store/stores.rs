//! Opening, founding, listing and finding; what is refused, and with which words.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::common::{
    Memory, assert_holds, layout, meta_file, noise, own_packs, spec, take_base, take_increment,
};
use ringmark_dirty::SlotId;
use ringmark_image::{BeginError, FindError, ImageError, OpenStoreError, RemoveError, Store, WriteError};

#[test]
fn a_store_is_never_made_in_the_wrong_place() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(matches!(Store::open(at("absent")), Err(OpenStoreError::Absent(_))));
    assert!(!at("absent").exists());
    fs::create_dir(at("empty")).unwrap();
    assert!(matches!(Store::open(at("empty")), Err(OpenStoreError::Empty(_))));
    fs::write(at("file"), "").unwrap();
    assert!(matches!(Store::create_or_open(at("file")), Err(OpenStoreError::NotADirectory(_))));
    fs::create_dir(at("foreign")).unwrap();
    fs::write(at("foreign/thesis.tex"), "").unwrap();
    for refused in [Store::open(at("foreign")), Store::create_or_open(at("foreign"))] {
        let Err(error) = refused else { panic!("a directory of somebody's was taken") };
        assert!(error.to_string().contains("thesis.tex"), "{error}");
    }
    assert_eq!(fs::read_dir(at("foreign")).unwrap().count(), 1);
    // Folders of the same names that hold something are somebody's too.
    fs::create_dir_all(at("photos/images/2024")).unwrap();
    assert!(matches!(Store::create_or_open(at("photos")), Err(OpenStoreError::Foreign { .. })));
    Store::create_or_open(at("empty")).unwrap();
    Store::create_or_open(at("deep/down/store")).unwrap();
    Store::open(at("deep/down/store")).unwrap();
    assert_eq!(fs::metadata(at("deep/down/store")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Store::create_or_open(dir.path()).unwrap();
    for found in ["ringmark image store, format version 2\n", "", "x"] {
        fs::write(dir.path().join("ringmark-store"), found).unwrap();
        assert!(matches!(Store::create_or_open(dir.path()), Err(OpenStoreError::Version { .. })));
    }
}

#[test]
fn a_founder_that_was_killed_can_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("images")).unwrap();
    fs::write(dir.path().join("ringmark-store.part"), "ringm").unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    assert!(store.list().unwrap().images.is_empty());
}

#[test]
fn founders_at_once_do_not_harm_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Store::create_or_open(&path).unwrap());
        }
    });
    Store::open(&path).unwrap();
}

#[test]
fn the_newest_is_the_last_completed_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 4)]);
    let mut ids = Vec::new();
    for back in 0..4 {
        let mut spec = spec(&layout, None);
        spec.created -= Duration::from_secs(3600 * back);
        let mut writer = store.begin(spec).unwrap();
        writer.put_zero(SlotId::new(0, 0), 0, 4).unwrap();
        ids.push(writer.finish().unwrap().id);
    }
    ids.reverse();
    let listing = store.list().unwrap();
    assert_eq!(listing.images.iter().map(|i| i.id).collect::<Vec<_>>(), ids);
    assert_eq!(store.newest("vm1").unwrap().unwrap().id, ids[0]);
    assert_eq!(store.newest("vm2").unwrap(), None);
}

#[test]
fn images_are_found_by_any_unique_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 1)]);
    let memory = Memory::zero(&layout);
    // Seventeen of sixteen first digits: two share one.
    let ids: Vec<_> = (0..17).map(|_| take_base(&store, &layout, &memory).unwrap().id).collect();
    for id in &ids {
        assert_eq!(store.find(&id.to_string()).unwrap(), *id);
        assert_eq!(store.find(&id.to_hex()).unwrap(), *id);
        assert_eq!(id.to_hex().parse(), Ok(*id));
        assert_eq!((format!("{id}").len(), format!("{id:#}").len()), (12, 64));
    }
    let ambiguous =
        (0..16).filter(|d| matches!(store.find(&format!("{d:x}")), Err(FindError::Ambiguous { .. })));
    assert!(ambiguous.count() > 0);
    assert!(matches!(store.find(&"0".repeat(64)), Err(FindError::None { .. })));
    for not in ["", "xyz", "AB", "../images"] {
        assert!(matches!(store.find(not), Err(FindError::NotAnId(_))));
    }
}

#[test]
fn a_missing_layer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 8)]);
    let mut memory = Memory::zero(&layout);
    memory.write(SlotId::new(0, 0), 0, &noise(4096, 7));
    let base = take_base(&store, &layout, &memory).unwrap().id;
    let first = take_increment(&store, &layout, base, &mut memory, &[(0, 1)], 1).unwrap().id;
    let second = take_increment(&store, &layout, first, &mut memory, &[(0, 2)], 2).unwrap().id;
    assert_holds(&store, second, &memory);
    let pack = own_packs(&store, base).remove(0);
    fs::remove_file(&pack).unwrap();
    let Err(error) = store.image(second) else { panic!("opened without its base") };
    assert!(matches!(&error, ImageError::MissingLayer { image, .. } if *image == second));
    assert!(error.to_string().contains(pack.file_name().unwrap().to_str().unwrap()), "{error}");
    assert!(matches!(
        store.begin(spec(&layout, Some(second))),
        Err(BeginError::Parent(ImageError::MissingLayer { .. }))
    ));
    store.remove(&[second]).unwrap();
    assert!(matches!(store.image(second), Err(ImageError::NoSuchImage { .. })));
    assert!(matches!(
        store.begin(spec(&layout, Some(second))),
        Err(BeginError::Parent(ImageError::NoSuchImage { .. }))
    ));
}

#[test]
fn a_removed_image_takes_what_nobody_else_needs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 300)]);
    let mut memory = Memory::zero(&layout);
    memory.write(SlotId::new(0, 0), 0, &noise(4096 * 300, 1));
    let mut chain = vec![(take_base(&store, &layout, &memory).unwrap().id, memory.clone())];
    for i in 1..6 {
        // Page 0 changes each time, the others once.
        let parent = chain.last().unwrap().0;
        let id = take_increment(&store, &layout, parent, &mut memory, &[(0, 0), (0, 40 * i)], i).unwrap().id;
        chain.push((id, memory.clone()));
    }
    let packs = || fs::read_dir(std::path::Path::new(store.location()).join("packs")).unwrap().count();
    assert_eq!(packs(), 6);
    // What is below the newest goes, oldest first; what the newest has of it stays.
    for (id, _) in &chain[..5] {
        let removed = store.remove(&[*id]).unwrap();
        assert_eq!((removed.images, removed.packs), (1, 0));
        assert!(!store.list().unwrap().images.iter().any(|i| i.id == *id));
        let fresh = Store::open(store.location()).unwrap();
        assert_holds(&fresh, chain[5].0, &chain[5].1);
    }
    // It goes on from there, and a machine whose pages were all written again needs no old pack.
    let (newest, _) = chain[5];
    let all: Vec<(u16, u64)> = (0..300).map(|page| (0, page)).collect();
    let last = take_increment(&store, &layout, newest, &mut memory, &all, 99).unwrap().id;
    assert_eq!(store.image(last).unwrap().summary().packs.len(), 1);
    let removed = store.remove(&[newest]).unwrap();
    assert_eq!((removed.images, removed.packs, packs()), (1, 6, 1));
    assert_holds(&Store::open(store.location()).unwrap(), last, &memory);
    assert!(matches!(store.remove(&[newest]), Err(RemoveError::NoSuchImage { .. })));
}

/// A writer goes on from an image that is removed while it writes.
#[test]
fn a_parent_may_vanish_under_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 300)]);
    let mut memory = Memory::zero(&layout);
    memory.write(SlotId::new(0, 0), 0, &noise(4096 * 300, 1));
    let base = take_base(&store, &layout, &memory).unwrap().id;
    let mut writer = store.begin(spec(&layout, Some(base))).unwrap();
    let removed = store.remove(&[base]).unwrap();
    assert_eq!((removed.images, removed.packs), (1, 0), "the writer needs the pack");
    writer.put(SlotId::new(0, 0), 7, &noise(4096, 8)).unwrap();
    memory.write(SlotId::new(0, 0), 7, &noise(4096, 8));
    let id = writer.finish().unwrap().id;
    store.sweep().unwrap();
    assert_holds(&Store::open(store.location()).unwrap(), id, &memory);
    assert_eq!(store.remove(&[id]).unwrap().packs, 2);
}

#[test]
fn what_is_no_image_is_listed_as_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 1)]);
    let good = take_base(&store, &layout, &Memory::zero(&layout)).unwrap().id;
    let bad = take_base(&store, &layout, &Memory::zero(&layout)).unwrap().id;
    fs::write(meta_file(&store, bad), "MZ is not an image").unwrap();
    fs::write(std::path::Path::new(store.location()).join("images/holiday.jpg"), "").unwrap();
    let listing = store.list().unwrap();
    assert_eq!(listing.images.iter().map(|i| i.id).collect::<Vec<_>>(), [good]);
    assert_eq!(listing.damaged.len(), 2);
    assert!(matches!(store.image(bad), Err(ImageError::Foreign { .. })));
    assert_eq!(store.newest("vm1").unwrap().unwrap().id, good);
    // Nobody can say what the damaged one needs: nothing is swept before it is removed by its name.
    assert!(matches!(store.remove(&[good]), Err(RemoveError::Damaged { .. })));
    assert!(store.remove(&[bad]).is_ok());
}

#[test]
fn a_writer_refuses_what_no_image_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let small = layout(4096, &[(0, 8), (100, 3)]);
    for name in ["", "a\nb", &"x".repeat(256)] {
        let spec = ringmark_image::ImageSpec { vm: name.to_owned(), ..spec(&small, None) };
        assert!(matches!(store.begin(spec), Err(BeginError::Name(_))));
    }
    let mut writer = store.begin(spec(&small, None)).unwrap();
    let (slot, other) = (SlotId::new(0, 0), SlotId::new(0, 1));
    let page = [7; 4096];
    assert!(matches!(writer.put(slot, 8, &page), Err(WriteError::OutOfRange { .. })));
    assert!(matches!(writer.put(slot, 7, &[7; 8192]), Err(WriteError::OutOfRange { .. })));
    assert!(matches!(writer.put(slot, u64::MAX, &page), Err(WriteError::OutOfRange { .. })));
    assert!(matches!(writer.put(SlotId::new(1, 0), 0, &page), Err(WriteError::OutOfRange { .. })));
    assert!(matches!(writer.put_zero(slot, 1, u64::MAX), Err(WriteError::OutOfRange { .. })));
    assert!(matches!(writer.put(slot, 0, &page[1..]), Err(WriteError::PartialPage { .. })));
    for name in ["", "../x", "A", "a/b", &"x".repeat(65)] {
        assert!(matches!(writer.put_state(name, b""), Err(WriteError::StateName(_))));
    }
    writer.put_state("a", b"").unwrap();
    assert!(matches!(writer.put_state("a", b""), Err(WriteError::StateName(_))));
    // None of these refusals has harmed the image, but it is not complete.
    writer.put(slot, 0, &page).unwrap();
    writer.put_zero(other, 0, 3).unwrap();
    let Err(WriteError::Incomplete { slot: at, offset: 1, missing: 7 }) = writer.finish() else {
        panic!("a base without all its pages was finished")
    };
    assert_eq!(at, slot);
    assert!(store.list().unwrap().images.is_empty());
    assert_eq!(crate::common::leftovers(&store), 0);

    let base = take_base(&store, &small, &Memory::zero(&small)).unwrap().id;
    let larger = layout(4096, &[(0, 8), (100, 4)]);
    assert!(matches!(store.begin(spec(&larger, Some(base))), Err(BeginError::ParentLayout { .. })));
    let image = store.image(base).unwrap();
    assert!(matches!(image.page(slot, 8, &mut [0; 4096]), Err(ImageError::NoSuchPage { .. })));
    assert!(matches!(image.page(slot, 0, &mut [0; 100]), Err(ImageError::NoSuchPage { .. })));
    assert!(matches!(image.state("nope"), Err(ImageError::NoSuchState { .. })));
}

#[test]
fn a_sink_can_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 4000)]);
    let mut memory = Memory::zero(&layout);
    memory.write(SlotId::new(0, 0), 0, &crate::common::noise(4000 * 4096, 3));
    let id = take_base(&store, &layout, &memory).unwrap().id;
    let calls = std::sync::atomic::AtomicU32::new(0);
    let refused = store.image(id).unwrap().restore(|_, _, _| {
        match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            3 => Err("enough"),
            _ => Ok(()),
        }
    });
    assert!(matches!(refused, Err(ringmark_image::RestoreError::Sink { source: "enough", .. })));
    // Others were under way; then it ended.
    assert!(calls.into_inner() < 200);
}

#[test]
fn a_directory_stands_every_failure() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("store")).unwrap();
    crate::failing_backend::stands_every_failure(store.backend());
}
