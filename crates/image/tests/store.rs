//! Opening, founding, listing and finding; what is refused, and with which words.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::{Memory, assert_holds, layout, spec, take_base, take_increment};
use ringmark_dirty::SlotId;
use ringmark_image::{BeginError, FindError, ImageError, OpenStoreError, Store, WriteError};

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
    for found in ["ringmark image store, layout version 2\n", "", "x"] {
        fs::write(dir.path().join("ringmark-store"), found).unwrap();
        assert!(matches!(Store::create_or_open(dir.path()), Err(OpenStoreError::Version { .. })));
    }
}

#[test]
fn a_founder_that_was_killed_can_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("images")).unwrap();
    fs::write(dir.path().join("ringmark-store.new"), "ringm").unwrap();
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
    let base = take_base(&store, &layout, &memory).unwrap().id;
    let first = take_increment(&store, &layout, base, &mut memory, &[(0, 1)], 1).unwrap().id;
    let second = take_increment(&store, &layout, first, &mut memory, &[(0, 2)], 2).unwrap().id;
    assert_holds(&store, second, &memory);
    fs::remove_dir_all(store.dir().join("images").join(base.to_hex())).unwrap();
    let Err(error) = store.image(second) else { panic!("opened without its base") };
    assert!(
        matches!(&error, ImageError::MissingLayer { image, layer, .. } if *image == second && *layer == base)
    );
    assert!(error.to_string().contains(&base.to_string()), "{error}");
    assert!(matches!(store.image(base), Err(ImageError::NoSuchImage { .. })));
    assert!(matches!(
        store.begin(spec(&layout, Some(base))),
        Err(BeginError::Parent(ImageError::NoSuchImage { .. }))
    ));
}

#[test]
fn what_is_no_image_is_listed_as_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path().join("s")).unwrap();
    let layout = layout(4096, &[(0, 1)]);
    let good = take_base(&store, &layout, &Memory::zero(&layout)).unwrap().id;
    let bad = take_base(&store, &layout, &Memory::zero(&layout)).unwrap().id;
    fs::write(store.dir().join("images").join(bad.to_hex()).join("meta"), "MZ is not an image").unwrap();
    fs::create_dir(store.dir().join("images/lost+found")).unwrap();
    let listing = store.list().unwrap();
    assert_eq!(listing.images.iter().map(|i| i.id).collect::<Vec<_>>(), [good]);
    assert_eq!(listing.damaged.len(), 2);
    assert!(matches!(store.image(bad), Err(ImageError::Foreign { .. })));
    assert_eq!(store.newest("vm1").unwrap().unwrap().id, good);
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
    assert_eq!(common::leftovers(store.dir()), 0);

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
    memory.write(SlotId::new(0, 0), 0, &common::noise(4000 * 4096, 3));
    let id = take_base(&store, &layout, &memory).unwrap().id;
    let mut calls = 0;
    let refused = store.image(id).unwrap().restore(|_, _, _| {
        calls += 1;
        if calls == 3 { Err("enough") } else { Ok(()) }
    });
    assert!(matches!(refused, Err(ringmark_image::RestoreError::Sink { source: "enough", .. })));
    assert_eq!(calls, 3);
}
