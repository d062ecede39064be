//! Checking images without restoring them.

use std::collections::HashSet;

use rayon::prelude::*;

use super::image::Image;
use crate::ImageError;
use crate::format::blocks::{self, Block, BlockKind};
use crate::format::header::{self, damaged};
use crate::format::meta::{Digest, PackRecord};
use crate::format::node::{self, FANOUT, Leaf, RunKind};
use crate::format::spread::Spread;
use crate::write::encode::extent_pages;

/// What a verification covered. What the same [`Verifier`] has found right before is not counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Packs whose blocks were checked.
    pub packs: u64,
    /// Pages whose contents were hashed; 0 unless the verification was deep.
    pub pages: u64,
    /// Bytes of packs that were read; 0 unless the verification was deep.
    pub bytes_read: u64,
}

/// Leaves that are checked at a time.
const LEAVES: usize = 1 << 14;

/// The most bytes of a block that are read at a time.
const CHUNK: usize = 1 << 20;

/// Checks images, and remembers what it has found right: the images of a chain share most of what they are.
#[derive(Debug)]
pub struct Verifier {
    deep: bool,
    packs: HashSet<(String, [u8; 32])>,
    /// Leaves by their hashes, with the packs that they refer to.
    leaves: HashSet<[u8; 32]>,
}

impl Verifier {
    /// A verifier that checks the structure: that packs are there, their tables, and every node of every index. A
    /// `deep` one checks every byte of every pack, those included that no image needs any more, and the hash of every
    /// page.
    #[must_use]
    pub fn new(deep: bool) -> Self {
        Self { deep, packs: HashSet::new(), leaves: HashSet::new() }
    }

    /// Checks `image` and all that it needs. Opening it has checked its metadata, and that its packs are there.
    ///
    /// # Errors
    /// The first damage.
    pub fn check(&mut self, image: &Image) -> Result<Verified, ImageError> {
        let mut verified = Verified::default();
        for record in image.tree().packs.records() {
            let known = (record.name.clone(), record.table.0);
            if self.packs.contains(&known) {
                continue;
            }
            let blocks = frame(image, record)?;
            if self.deep {
                verified.bytes_read += check_blocks(image, record, &blocks)?;
            }
            verified.packs += 1;
            self.packs.insert(known);
        }
        let mut leaves: Vec<(u64, Leaf)> = Vec::new();
        let mut keys = Vec::new();
        let all = 0..image.tree().leaves();
        let mut spread = Spread::default();
        let group = usize::from(extent_pages(image.layout().page_size()));
        image.tree().walk(all, &mut |number, leaf: &Leaf| {
            spread = spread.exchange(&Spread::default(), &Spread::of(&leaf.places(), group));
            let key = leaf_key(image, leaf);
            if self.deep && !self.leaves.contains(&key) {
                leaves.push((number, leaf.clone()));
                keys.push(key);
            }
            if leaves.len() == LEAVES { check_leaves(image, &mut leaves, &mut verified) } else { Ok(()) }
        })?;
        check_leaves(image, &mut leaves, &mut verified)?;
        self.leaves.extend(keys);
        if spread != image.meta().spread {
            let what = format!("it counts {:?}, and its index {spread:?}", image.meta().spread);
            return Err(damaged(&format!("the metadata of image {}", image.id()), what));
        }
        if self.deep {
            image.state_names().try_for_each(|name| image.state(name).map(drop))?;
        }
        Ok(verified)
    }
}

/// Checks the header and the table of every pack of `image`.
pub(super) fn frames(image: &Image) -> Result<(), ImageError> {
    let records: Vec<&PackRecord> = image.tree().packs.records().collect();
    records.par_iter().try_for_each(|record| frame(image, record).map(drop))
}

fn frame(image: &Image, record: &PackRecord) -> Result<Vec<Block>, ImageError> {
    let name = image.tree().packs.name_of(record.number);
    let table = image.tree().packs.frame(record.number)?;
    if Digest::of(&table) != record.table {
        return Err(damaged(
            &name,
            "its table does not have the BLAKE3 that the metadata records".to_owned(),
        ));
    }
    blocks::decode(&table, record.len).map_err(|what| damaged(&name, what))
}

/// Compares every block of the pack with its hash. Returns the bytes read.
fn check_blocks(image: &Image, record: &PackRecord, blocks: &[Block]) -> Result<u64, ImageError> {
    let mut offset = header::LEN as u64;
    let placed: Vec<(u64, &Block)> = blocks
        .iter()
        .map(|block| {
            let at = offset;
            offset += u64::from(block.len);
            (at, block)
        })
        .collect();
    placed.par_iter().try_for_each_init(Vec::new, |buf, (offset, block)| {
        let mut hasher = blake3::Hasher::new();
        let mut done = 0;
        while done < block.len as usize {
            let len = (block.len as usize - done).min(CHUNK);
            buf.resize(len, 0);
            image.tree().packs.read(record.number, offset + done as u64, buf)?;
            hasher.update(buf);
            done += len;
        }
        if hasher.finalize().as_bytes()[..16] == block.hash {
            return Ok(());
        }
        let what = match block.kind {
            BlockKind::Extent { .. } => "pages",
            BlockKind::Index => "index",
            BlockKind::State => "machine state",
        };
        let name = image.tree().packs.name_of(record.number);
        Err(damaged(
            &name,
            format!("the {what} at byte {offset} do not have the hash that is recorded of them"),
        ))
    })?;
    Ok(record.len)
}

/// What says all that a check of `leaf` depends on.
fn leaf_key(image: &Image, leaf: &Leaf) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(leaf.bytes());
    hasher.update(&image.meta().seed.to_le_bytes());
    hasher.update(&image.layout().page_size().bytes().to_le_bytes());
    for run in leaf.runs() {
        if let RunKind::Stored { extent, .. } = run.kind
            && let Some(record) = image.meta().pack(extent.pack)
        {
            hasher.update(record.name.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// Hashes every page of `leaves`, and clears them.
fn check_leaves(
    image: &Image,
    leaves: &mut Vec<(u64, Leaf)>,
    verified: &mut Verified,
) -> Result<(), ImageError> {
    let pages = leaves
        .par_iter()
        .map_init(Default::default, |(stored, raw), (number, leaf)| {
            check_leaf(image, *number, leaf, stored, raw)
        })
        .try_reduce(|| 0, |a, b| Ok(a + b))?;
    verified.pages += pages;
    leaves.clear();
    Ok(())
}

fn check_leaf(
    image: &Image,
    number: u64,
    leaf: &Leaf,
    stored: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<u64, ImageError> {
    let page = image.layout().page_bytes();
    let mut checked = 0;
    let mut decoded: Option<node::Extent> = None;
    for run in leaf.runs() {
        let RunKind::Stored { extent, skip } = run.kind else {
            checked += u64::from(run.pages);
            continue;
        };
        if decoded != Some(extent) {
            stored.resize(extent.len as usize, 0);
            raw.resize(usize::from(extent.pages) * page, 0);
            image.tree().packs.read(extent.pack, extent.offset, stored)?;
            image.checker().check_stored(&extent, stored)?;
            image.checker().decode(&extent, stored, raw)?;
            decoded = Some(extent);
        }
        let start = usize::from(skip) * page;
        for (i, contents) in (0..run.pages).zip(raw[start..].chunks_exact(page)) {
            let at = number * FANOUT + u64::from(run.first + i);
            image.checker().check_page(at, &extent, contents, leaf.word(&run, i))?;
            checked += 1;
        }
    }
    Ok(checked)
}
