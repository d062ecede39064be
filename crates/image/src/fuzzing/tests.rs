//! The fuzz targets for a bounded time, with seeds from real images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{fuzz, image, metadata, node, seeds, table};

#[test]
fn metadata_that_nobody_wrote() {
    fuzz(metadata, &seeds()[0], 20_000);
}

#[test]
fn nodes_that_nobody_wrote() {
    fuzz(node, &seeds()[1], 50_000);
}

#[test]
fn tables_that_nobody_wrote() {
    fuzz(table, &seeds()[2], 50_000);
}

#[test]
fn images_that_nobody_wrote() {
    // Laid over the root: nothing changes, then single bytes.
    let mut seeds = vec![vec![0], vec![1], vec![0; 300], vec![1; 40]];
    for at in 1..120 {
        let mut seed = vec![0; at + 1];
        seed[at] = 1 << (at % 8);
        seeds.push(seed.clone());
        seed[0] = 1;
        seeds.push(seed);
    }
    fuzz(image, &seeds, 150);
}

/// The control: the forged image that changes nothing is one that can be read.
#[test]
fn a_forgery_that_changes_nothing_is_an_image() {
    for pages in [60, 200] {
        let (store, layout) = super::real(pages).unwrap();
        let forged = super::forge::root(&store, &[]).unwrap().unwrap();
        forged.verify(true).unwrap();
        super::read(&forged, &layout);
        let noisy = super::forge::root(&store, &[0, 0xff]).unwrap().unwrap();
        assert!(noisy.verify(false).is_err());
    }
}

/// An image of more packs than are worth while is not gone on from.
#[test]
fn an_image_that_is_scattered_is_no_parent() {
    let (store, layout) = super::real(60).unwrap();
    let newest = store.newest("vm").unwrap().unwrap();
    let mut meta = store.image(newest.id).unwrap().meta().clone();
    let mut spec = crate::ImageSpec {
        vm: "vm".to_owned(),
        parent: Some(newest.id),
        layout,
        created: std::time::UNIX_EPOCH,
    };
    drop(store.begin(spec.clone()).unwrap());
    for number in 0..5000 {
        let mut pack = meta.packs[0].clone();
        pack.number = meta.next_pack + number;
        (pack.name, pack.len, pack.table_len) = (format!("{}-{number}", "e".repeat(16)), 16, 0);
        store.backend().put_if_absent(&pack.key(), &[0; 16]).unwrap();
        meta.packs.push(pack);
    }
    meta.next_pack += 5000;
    meta.sequence += 1;
    let bytes = meta.encode().unwrap();
    let id = crate::ImageId::of(&bytes);
    store.backend().put_if_absent(&crate::store::image_key(meta.sequence, id), &bytes).unwrap();
    spec.parent = Some(id);
    assert!(matches!(store.begin(spec), Err(crate::BeginError::Scattered { packs: 5002, .. })));
}
