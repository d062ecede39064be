//! Every decoder of the format, given bytes that nobody wrote.
//!
//! Each function takes what a fuzzer makes up and returns; a panic, a hang or memory without bound is what is looked for.
//! The crate's tests call them for a bounded time with seeds from real images, on the stable toolchain; the targets in the
//! repository's `fuzz` directory call them under libFuzzer.

mod forge;
mod memory;
mod mutation;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ringmark_dirty::{Gfn, Memslot, PageSize, SlotId, SlotTable};

use crate::format::meta::Meta;
use crate::format::node::{MAX_LEVEL, Node};
use crate::format::{blocks, header};
use crate::{Image, ImageSpec, Layout, Store};

pub use memory::Memory;
pub use mutation::fuzz;

const PAGE: usize = 512;

/// Bytes as the metadata of an image.
pub fn metadata(bytes: &[u8]) {
    if let Ok(meta) = Meta::decode(bytes) {
        assert!(meta.zero_pages <= meta.pages && meta.pages <= meta.layout.pages());
        assert!(meta.packs.iter().all(|p| p.blocks_end() >= header::LEN as u64));
        // What is understood is understood again.
        let again = meta.encode().map(|bytes| Meta::decode(&bytes));
        assert_eq!(again.ok(), Some(Ok(meta)));
    }
}

/// Bytes as a node of the index, at every level.
pub fn node(bytes: &[u8]) {
    for level in 0..=MAX_LEVEL {
        match Node::decode(bytes.into(), level) {
            Ok(Node::Leaf(leaf)) => {
                let places = leaf.places();
                for (page, place) in (0..).zip(places) {
                    assert_eq!(leaf.place(page), place);
                }
            }
            Ok(Node::Branch(branch)) => assert!(branch.children().iter().any(Option::is_some)),
            Err(_) => {}
        }
    }
}

/// Bytes as the table of a pack.
pub fn table(bytes: &[u8]) {
    let len =
        bytes.chunks_exact(blocks::ENTRY).fold(header::LEN as u64 + bytes.len() as u64, |len, entry| {
            len + u64::from(u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]))
        });
    if let Ok(found) = blocks::decode(bytes, len) {
        assert_eq!(blocks::encode(&found), bytes);
        assert!(blocks::decode(bytes, len + 1).is_err());
    }
}

/// Bytes laid over the root of an index of which everything else is right, all hashes included: what remains when an
/// attacker, and not a disk, made the image. The image is then read in every way.
pub fn image(bytes: &[u8]) {
    let Some((choice, noise)) = bytes.split_first() else { return };
    let Ok((store, layout)) = real(if choice % 2 == 0 { 60 } else { 200 }) else { return };
    let Ok(Some(forged)) = forge::root(&store, noise) else { return };
    read(&forged, &layout);
}

/// Bytes of real images to begin with: metadata, nodes, tables.
#[must_use]
pub fn seeds() -> [Vec<Vec<u8>>; 3] {
    let [mut metas, mut nodes, mut tables] = [const { Vec::new() }; 3];
    for pages in [60, 200] {
        let Ok((store, _)) = real(pages) else { continue };
        let Ok((entries, _)) = store.entries() else { continue };
        for entry in entries {
            let Ok(image) = Image::open(&store, &entry) else { continue };
            metas.extend(image.meta().encode());
            for record in image.tree().packs.records() {
                tables.extend(image.tree().packs.frame(record.number));
            }
            nodes.extend(forge::nodes(&image));
        }
    }
    [metas, nodes, tables]
}

fn slots(pages: u64) -> Option<Layout> {
    let slot = |id, base, npages| Memslot { id: SlotId::new(0, id), base: Gfn(base), npages };
    let slots = SlotTable::new([slot(0, 0, pages - 9), slot(1, 1 << 24, 9)]).ok()?;
    Layout::new(PageSize::new(PAGE as u64)?, slots).ok()
}

/// A store of a base and an increment: raw and compressed extents, zero and repeated pages, and holes between them.
fn real(pages: u64) -> Result<(Store, Layout), Box<dyn std::error::Error>> {
    let store = Store::with_backend(Arc::new(Memory::default()), true)?;
    let layout = slots(pages).ok_or("a layout")?;
    let spec = |parent| ImageSpec {
        vm: "vm".to_owned(),
        parent,
        layout: layout.clone(),
        created: std::time::UNIX_EPOCH,
    };
    let mut writer = store.begin(spec(None))?;
    for slot in layout.slots().iter() {
        for page in 0..slot.npages {
            writer.put(slot.id, page, &contents(page))?;
        }
    }
    writer.put_state("a", b"state")?;
    let base = writer.finish()?.id;
    let mut writer = store.begin(spec(Some(base)))?;
    for page in [1, 3, 20, 21] {
        writer.put(SlotId::new(0, 0), page, &contents(page + 1))?;
    }
    writer.put_state("a", b"another state")?;
    writer.finish()?;
    Ok((store, layout))
}

fn contents(page: u64) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    for (i, byte) in (page.wrapping_mul(0x9e37_79b9)..).zip(&mut bytes) {
        *byte = match page % 5 {
            0 => 0,
            1 => 7,
            2 => (i % 11) as u8,
            _ => blake3::hash(&i.to_le_bytes()).as_bytes()[0],
        };
    }
    bytes
}

/// Reads `image` in every way; whatever it is, what comes out is of the layout.
fn read(image: &Image, layout: &Layout) {
    let _ = image.verify(true);
    let _ = image.changes(image);
    let sink = |slot, first: u64, bytes: &[u8]| {
        let slot = layout.slots().get(slot).copied();
        let end = first + (bytes.len() / PAGE) as u64;
        assert!(slot.is_some_and(|slot| end <= slot.npages), "a page past the end of its slot");
        Ok::<_, ()>(())
    };
    let mut buf = [0; PAGE];
    for slot in layout.slots().iter() {
        for page in 0..slot.npages {
            let _ = image.page(slot.id, page, &mut buf);
            let _ = image.extent(slot.id, page, sink);
        }
    }
    if let Ok(restored) = image.restore(sink) {
        assert_eq!(restored.pages + restored.zero_pages, layout.pages());
    }
}
