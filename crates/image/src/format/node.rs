//! The index: a tree of sixty-four children a node, each named by the hash of its bytes.
//!
//! A *leaf* says where the contents of sixty-four pages are, a *branch* names up to sixty-four nodes of the level below.
//! Nodes never change: an image whose parent differs from it in one page writes one leaf, and one branch a level, and
//! shares all others. So the tree of an increment costs what is dirty, and a page of any image is found in as many
//! steps as the tree has levels, however long the chain.

use std::sync::Arc;

mod branch;
mod leaf;

pub(crate) use branch::Branch;
pub(crate) use leaf::{Leaf, Place, Run, RunKind};

/// Children of a branch, and pages of a leaf.
pub(crate) const FANOUT: u64 = 64;

/// The most bytes of a node.
pub(crate) const MAX_NODE: usize = 4096;

/// Levels that a memory can need: 64 to the eighth is more than 2^43 pages.
pub(crate) const MAX_LEVEL: u8 = 7;

/// The first sixteen bytes of a BLAKE3.
pub(crate) type Hash = [u8; 16];

/// The hash of the stored bytes of a node, an extent or a block.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

/// Where a node is, and the hash of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRef {
    /// Number of the pack in the metadata.
    pub(crate) pack: u32,
    pub(crate) len: u32,
    pub(crate) offset: u64,
    pub(crate) hash: Hash,
}

/// How an extent is stored. Zero is never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Raw,
    Zstd,
}

impl Encoding {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Raw => 1,
            Self::Zstd => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Raw),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A stretch of a pack that holds pages of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) pack: u32,
    pub(crate) offset: u64,
    /// Bytes in the pack.
    pub(crate) len: u32,
    /// Pages that it decodes to, at most [`FANOUT`].
    pub(crate) pages: u8,
    pub(crate) encoding: Encoding,
    pub(crate) hash: Hash,
}

/// A node whose structure was checked.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

impl Node {
    /// The node of level `level` in `bytes`, or what is wrong with it. That the pages and packs it names exist is
    /// checked where it is used.
    pub(crate) fn decode(bytes: Arc<[u8]>, level: u8) -> Result<Self, String> {
        match bytes.first() {
            Some(0) if level == 0 => Leaf::decode(bytes).map(Self::Leaf),
            Some(&found) if found == level && level != 0 => Branch::decode(bytes, level).map(Self::Branch),
            Some(found) => Err(format!("a node of level {found} is where one of level {level} should be")),
            None => Err("a node is empty".to_owned()),
        }
    }
}

/// The level of the root over `pages` pages.
pub(crate) fn root_level(pages: u64) -> u8 {
    let mut level = 0;
    let mut covered = FANOUT;
    while covered < pages && level < MAX_LEVEL {
        level += 1;
        covered = covered.saturating_mul(FANOUT);
    }
    level
}

/// Leaves under a node of `level`.
pub(crate) const fn leaves_under(level: u8) -> u64 {
    1 << (6 * level as u32)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b))
}

fn hash_at(bytes: &[u8], at: usize) -> Hash {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()
}
