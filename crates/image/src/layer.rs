//! One image of a chain, as it lies in its directory.

use std::fs::File;
use std::path::PathBuf;

use ringmark_dirty::SlotId;

use crate::encode::{self, Encoding};
use crate::header::{self, damaged};
use crate::index::{Index, Run};
use crate::meta::{Meta, state_file};
use crate::{ImageError, ImageId, Store, Summary, pages, reader};

/// An image without its ancestors. Its metadata and its index are checked, its pack is known to be there in full
/// length.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) summary: Summary,
    pub(crate) meta: Meta,
    pub(crate) index: Index,
    dir: PathBuf,
}

impl Layer {
    pub(crate) fn open(store: &Store, id: ImageId) -> Result<Self, ImageError> {
        let (meta, meta_len) = store.meta(id)?;
        let dir = store.image_dir(id);
        let path = dir.join("index");
        let bytes = reader::whole(&path, meta.index.len, &meta.index.blake3)?;
        header::check(&path, &bytes, header::INDEX)?;
        let index =
            Index::decode(&bytes, &meta.layout, meta.pack.len).map_err(|what| damaged(&path, what))?;
        if index.pages() != (meta.pages, meta.zero_pages) {
            return Err(damaged(&path, "its pages are not as many as the metadata counts".to_owned()));
        }
        if meta.parent.is_none() && meta.pages != meta.layout.pages() {
            return Err(damaged(&path, "it is of a base image and misses pages".to_owned()));
        }
        let summary = meta.summary(id, meta_len);
        let layer = Self { summary, meta, index, dir };
        layer.pack()?;
        for state in &layer.meta.states {
            reader::open(&layer.dir.join(state_file(&state.name)), state.file.len)?;
        }
        Ok(layer)
    }

    pub(crate) fn pack_path(&self) -> PathBuf {
        self.dir.join("pages")
    }

    /// The pack, open.
    pub(crate) fn pack(&self) -> Result<File, ImageError> {
        let path = self.pack_path();
        let file = reader::open(&path, self.meta.pack.len)?;
        let mut head = [0; header::LEN];
        reader::at(&path, &file, &mut head, 0)?;
        header::check(&path, &head, header::PACK)?;
        Ok(file)
    }

    /// A part of the machine state.
    pub(crate) fn state(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let found = self.meta.states.binary_search_by(|s| s.name.as_str().cmp(name));
        let Some(state) = found.ok().map(|i| &self.meta.states[i]) else {
            return Err(ImageError::NoSuchState { id: self.summary.id, name: name.to_owned() });
        };
        reader::whole(&self.dir.join(state_file(name)), state.file.len, &state.file.blake3)
    }

    /// Compares every file with the hash in the metadata. Returns the bytes read.
    pub(crate) fn check_files(&self) -> Result<u64, ImageError> {
        let mut read = 0;
        let states = self.meta.states.iter().map(|s| (state_file(&s.name), &s.file));
        for (name, file) in states.chain([("pages".to_owned(), &self.meta.pack)]) {
            reader::check_hash(&self.dir.join(name), file.len, &file.blake3)?;
            read += file.len;
        }
        Ok(read)
    }

    /// Decodes extent `number` into `raw`, which is resized to its pages; `stored` is scratch. Returns the bytes read.
    pub(crate) fn decode(
        &self,
        pack: &File,
        number: u32,
        stored: &mut Vec<u8>,
        raw: &mut Vec<u8>,
    ) -> Result<u64, ImageError> {
        let path = self.pack_path();
        let extent = &self.index.extents[number as usize];
        let page = self.page_bytes();
        raw.resize(usize::from(extent.pages) * page, 0);
        match extent.encoding {
            Encoding::Raw => reader::at(&path, pack, raw, extent.offset)?,
            Encoding::Zstd => {
                stored.resize(extent.len as usize, 0);
                reader::at(&path, pack, stored, extent.offset)?;
                encode::decode(stored, raw).map_err(|e| {
                    damaged(&path, format!("the extent at byte {} cannot be decoded: {e}", extent.offset))
                })?;
            }
        }
        Ok(extent.len.into())
    }

    /// The bytes of `run` in the decoded extent `raw`, after the hash of every page was found right.
    pub(crate) fn checked<'r>(&self, run: &Run, raw: &'r [u8]) -> Result<&'r [u8], ImageError> {
        let page = self.page_bytes();
        let start = run.skip as usize * page;
        let bytes = &raw[start..start + run.npages as usize * page];
        for (i, contents) in (0u32..).zip(bytes.chunks_exact(page)) {
            let want = usize::try_from(run.hash + u64::from(i)).ok().and_then(|h| self.index.hashes.get(h));
            if want != Some(&pages::hash(contents)) {
                return Err(ImageError::DamagedPage {
                    path: self.pack_path(),
                    slot: SlotId::from_raw(run.slot),
                    offset: (run.first + i).into(),
                });
            }
        }
        Ok(bytes)
    }

    #[allow(clippy::cast_possible_truncation, reason = "a page of an image has at most a megabyte")]
    pub(crate) fn page_bytes(&self) -> usize {
        self.meta.layout.page_size().bytes() as usize
    }
}
