//! Pages out of an extent, each checked.

use std::cell::RefCell;
use std::io;

use ringmark_dirty::SlotId;
use zstd::bulk::Decompressor;

use super::tree::Tree;
use crate::format::header::damaged;
use crate::format::node::{self, Encoding, Extent};
use crate::format::page;
use crate::{ImageError, Layout};

thread_local! {
    // Each thread that decodes keeps one: to make a context costs more than to decode a page.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decodes the zstd frame `stored` to exactly `raw`.
fn decompress(stored: &[u8], raw: &mut [u8]) -> Result<(), String> {
    let len = DECOMPRESSOR
        .with_borrow_mut(|slot| -> io::Result<usize> {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(stored, raw)
        })
        .map_err(|e| e.to_string())?;
    if len == raw.len() { Ok(()) } else { Err(format!("{len} bytes instead of {}", raw.len())) }
}

/// What a reader of an image needs to know to check a page.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) layout: &'a Layout,
    pub(crate) seed: u64,
}

impl Checker<'_> {
    /// Compares the stored bytes of `extent` with their hash.
    pub(crate) fn check_stored(&self, extent: &Extent, stored: &[u8]) -> Result<(), ImageError> {
        if node::hash(stored) == extent.hash {
            return Ok(());
        }
        Err(self.wrong(extent, "does not have the hash that the index records"))
    }

    /// The pages in the stored bytes of `extent`, decoded into `raw`, which has their length. What is given to the
    /// decoder has the hash that is known of it.
    pub(crate) fn decode(&self, extent: &Extent, stored: &[u8], raw: &mut [u8]) -> Result<(), ImageError> {
        match extent.encoding {
            Encoding::Raw => raw.copy_from_slice(stored),
            Encoding::Zstd => {
                self.check_stored(extent, stored)?;
                decompress(stored, raw)
                    .map_err(|e| self.wrong(extent, &format!("cannot be decoded: {e}")))?;
            }
        }
        Ok(())
    }

    /// Compares page `number` of the memory with its hash.
    pub(crate) fn check_page(
        &self,
        number: u64,
        extent: &Extent,
        bytes: &[u8],
        hash: u64,
    ) -> Result<(), ImageError> {
        if page::hash(bytes, self.seed) == hash {
            return Ok(());
        }
        let (slot, offset, _) = self.layout.place(number).unwrap_or((SlotId::new(0, 0), number, 0));
        Err(ImageError::DamagedPage { object: self.tree.packs.name_of(extent.pack), slot, offset })
    }

    fn wrong(&self, extent: &Extent, what: &str) -> ImageError {
        let object = self.tree.packs.name_of(extent.pack);
        damaged(&object, format!("the extent at byte {} {what}", extent.offset))
    }
}
