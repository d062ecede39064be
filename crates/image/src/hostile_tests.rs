//! Each rule of the format, broken with everything else right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use crate::format::blocks::{self, Block, BlockKind};
use crate::format::meta::{Digest, Meta, PackRecord, StateRecord};
use crate::format::node::{Branch, Encoding, Extent, Leaf, Node, NodeRef, Place};
use crate::format::spread::Spread;
use crate::{ImageId, Layout};
use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};

fn places() -> [Place; 64] {
    let extent = Extent { pack: 3, offset: 16, len: 900, pages: 4, encoding: Encoding::Zstd, hash: [7; 16] };
    let mut places = [Place::Zero; 64];
    places[2] = Place::Repeated(9);
    places[3] = Place::Repeated(10);
    for skip in 0..3u8 {
        places[usize::from(10 + skip)] =
            Place::Stored { extent, skip: 1 + skip, hash: 100 + u64::from(skip) };
    }
    places[63] = Place::Stored { extent, skip: 0, hash: 99 };
    places
}

#[test]
fn every_rule_of_a_leaf_is_kept() {
    let bytes = Leaf::encode(&places()).unwrap();
    let decode = |bytes: &[u8]| Node::decode(Arc::from(bytes), 0);
    let Ok(Node::Leaf(leaf)) = decode(&bytes) else { panic!("a leaf") };
    assert_eq!(leaf.places(), places());
    assert_eq!(leaf.runs().count(), 3);
    assert_eq!(Leaf::encode(&[Place::Zero; 64]), None);
    assert_eq!(bytes.len(), 8 + 3 * 40 + 6 * 8);

    // Offsets of the runs: two words, three pages of the extent, one.
    let (words, three, one) = (8, 48, 88);
    let changes: [(usize, u8); 19] = [
        (0, 1),
        (1, 0),
        (1, 2),
        (1, 4),
        (2, 1),
        (words, 11),
        (words + 1, 0),
        (words + 1, 9),
        (words + 2, 0),
        (words + 2, 4),
        (words + 9, 1),
        (three, 1),
        (three + 1, 4),
        (three + 3, 2),
        (three + 4, 65),
        (three + 5, 1),
        (one + 1, 2),
        (one, 64),
        (8 + 3 * 40, 0),
    ];
    for (at, new) in changes {
        let mut wrong = bytes.clone();
        wrong[at] = new;
        assert!(decode(&wrong).is_err(), "byte {at} is {new}");
    }
    let mut empty = bytes.clone();
    empty[three + 12..three + 16].fill(0);
    assert!(decode(&empty).is_err(), "an extent of no bytes");
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err());
    }
    assert!(decode(&[&bytes[..], &[0; 8]].concat()).is_err());
    assert!(Node::decode(bytes.into(), 1).is_err());
}

#[test]
fn every_rule_of_a_branch_is_kept() {
    let child = |pack| NodeRef { pack, len: 100, offset: 16, hash: [9; 16] };
    let mut children = [None; 64];
    (children[0], children[5], children[63]) = (Some(child(1)), Some(child(2)), Some(child(3)));
    let bytes = Branch::encode(2, &children).unwrap();
    let decode = |bytes: &[u8], level| Node::decode(Arc::from(bytes), level);
    let Ok(Node::Branch(branch)) = decode(&bytes, 2) else { panic!("a branch") };
    assert_eq!(branch.children(), children);
    assert_eq!(Branch::encode(2, &[None; 64]), None);
    assert!(decode(&bytes, 1).is_err() && decode(&bytes, 3).is_err() && decode(&bytes, 0).is_err());
    for (at, new) in [(1, 1), (8, 0), (8, 7), (16 + 4, 0), (16 + 5, 0x11)] {
        let mut wrong = bytes.clone();
        wrong[at] = new;
        assert!(decode(&wrong, 2).is_err(), "byte {at} is {new}");
    }
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len], 2).is_err());
    }
}

#[test]
fn every_rule_of_a_table_is_kept() {
    let extent = BlockKind::Extent { encoding: Encoding::Raw, leaf: 3, pages: 5 };
    let block = |kind, len| Block { kind, len, hash: [1; 16] };
    let blocks = [block(extent, 1024), block(BlockKind::Index, 50), block(BlockKind::State, 0)];
    let bytes = blocks::encode(&blocks);
    let len = 16 + 1074 + bytes.len() as u64;
    assert_eq!(blocks::decode(&bytes, len).unwrap(), blocks);
    assert!(blocks::decode(&bytes, len + 1).is_err() && blocks::decode(&bytes[1..], len).is_err());
    for (at, new) in [(0, 0), (0, 5), (1, 1), (16, 0), (40, 1), (40 + 8, 1), (40 + 16, 1)] {
        let mut wrong = bytes.clone();
        wrong[at] = new;
        assert!(at == 16 || blocks::decode(&wrong, len).is_err(), "byte {at} is {new}");
    }
    let no_pages =
        blocks::encode(&[block(BlockKind::Extent { encoding: Encoding::Raw, leaf: 3, pages: 0 }, 9)]);
    assert!(blocks::decode(&no_pages, 16 + 9 + 40).is_err());
}

fn meta() -> Meta {
    let slot = |id, base, npages| Memslot { id: SlotId::new(0, id), base: Gfn(base), npages };
    let slots = SlotTable::new([slot(0, 0, 20), slot(1, 1 << 24, 9)]).unwrap();
    let pack = |number| PackRecord {
        number,
        name: "0123456789abcdef-0".to_owned(),
        len: 1000,
        table_len: 80,
        table: Digest([1; 32]),
        pages: 5,
        nodes: 1,
    };
    Meta {
        vm: "vm".to_owned(),
        created_ns: 1,
        sequence: 2,
        nonce: 3,
        parent: Some(ImageId::of(b"x")),
        seed: 4,
        layout: Layout::new(PageSize::new(512).unwrap(), slots).unwrap(),
        pages: 29,
        zero_pages: 9,
        repeated_pages: 10,
        unchanged_pages: 10,
        spread: Spread { stored: 10, extents: 4, decoded: 14, groups: 2 },
        root: Some(NodeRef { pack: 4, len: 100, offset: 16, hash: [5; 16] }),
        first_pack: 4,
        next_pack: 5,
        packs: vec![pack(2), pack(4)],
        states: vec![StateRecord {
            name: "a".to_owned(),
            pack: 4,
            offset: 16,
            len: 904,
            blake3: Digest([2; 32]),
        }],
    }
}

#[test]
fn every_rule_of_metadata_is_kept() {
    let good = meta();
    assert_eq!(Meta::decode(&good.encode().unwrap()).unwrap(), good);
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Meta));
    let changes: [Change<'_>; 23] = [
        ("name", &|m| m.vm = "a\nb".to_owned()),
        ("name", &|m| m.vm = String::new()),
        ("pages", &|m| m.pages = 30),
        ("pages", &|m| m.zero_pages = 10),
        ("pages", &|m| m.zero_pages = u64::MAX),
        ("extents", &|m| m.spread.stored = 30),
        ("extents", &|m| m.spread.extents = 11),
        ("extents", &|m| m.spread.groups = 11),
        ("extents", &|m| m.spread.groups = 0),
        ("extents", &|m| m.spread.decoded = 9),
        ("extents", &|m| m.spread.decoded = u64::MAX),
        ("packs are not in order", &|m| m.packs.reverse()),
        ("numbers", &|m| m.next_pack = 4),
        ("numbers", &|m| m.first_pack = 6),
        ("impossible", &|m| m.packs[0].table_len = 81),
        ("impossible", &|m| m.packs[0].len = 95),
        ("impossible", &|m| m.packs[0].table_len = u64::MAX - 15),
        ("impossible", &|m| m.packs[0].name = "../../0123456789ab-0".to_owned()),
        ("root", &|m| m.root.as_mut().unwrap().len = 5000),
        ("machine state", &|m| m.states[0].len = 905),
        ("machine state", &|m| m.states[0].offset = u64::MAX),
        ("machine state", &|m| m.states[0].pack = 3),
        ("machine state", &|m| m.states[0].name = "A".to_owned()),
    ];
    for (word, change) in changes {
        let mut wrong = good.clone();
        change(&mut wrong);
        let said = Meta::decode(&wrong.encode().unwrap()).unwrap_err();
        assert!(said.contains(word), "{said:?} says nothing of {word:?}");
    }
    // A field that is not known, and one that is missing.
    let bytes = good.encode().unwrap();
    let at = bytes.windows(5).position(|w| w == b"nonce").unwrap();
    let mut other = bytes.clone();
    other[at..at + 5].copy_from_slice(b"nonsy");
    assert!(Meta::decode(&other).is_err());
    assert!(Meta::decode(&[&bytes[..], &[0]].concat()).is_err());
}
