//! The fuzz targets for a bounded time, with seeds from real images: `RINGMARK_FUZZ_ROUNDS` says how many inputs each gets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{image, metadata, node, seeds, table};

/// xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// Numbers at the edges of what fields hold.
const EDGES: [u64; 9] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// Changes a few places of `bytes` as libFuzzer would.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.next() % 7 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next().to_le_bytes()[0]),
            2 => drop((at < bytes.len()).then(|| bytes.remove(at))),
            3 => {
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = 1 << random.below(4);
                bytes[at..].iter_mut().zip(&edge[..width]).for_each(|(byte, edge)| *byte = *edge);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (random.next() % 8);
                }
            }
        }
    }
}

fn fuzz(target: fn(&[u8]), seeds: &[Vec<u8>], rounds: u64) {
    let rounds = std::env::var("RINGMARK_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(rounds);
    assert!(seeds.len() >= 2);
    seeds.iter().for_each(|seed| target(seed));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut corpus = seeds.to_vec();
    for round in 0..rounds {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        let other = random.below(seeds.len());
        mutate(&mut bytes, &seeds[other], &mut random);
        target(&bytes);
        // Changes of changes reach further; the seeds stay.
        if round % 16 == 0 {
            if corpus.len() < 256 {
                corpus.push(bytes);
            } else {
                let at = seeds.len() + random.below(corpus.len() - seeds.len());
                corpus[at] = bytes;
            }
        }
    }
}

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
