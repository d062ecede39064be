//! Frames into pages.

use ringmark_dirty::{PageSize, SlotId, SlotTable};
use ringmark_track::{Memory, MemoryError};

use super::hash_content;
use crate::wire::{Encoding, Kind, Run, RunError};

/// A frame could not be turned into pages.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its header is wrong.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its bytes are not the pages it announces.
    #[error("a frame announces {pages} bytes of pages as {encoding:?} and holds something else: {what}")]
    Content {
        /// How they are encoded.
        encoding: Encoding,
        /// The bytes that were to come of it.
        pages: u64,
        /// What is wrong.
        what: String,
    },
    /// Memory could not be read or written.
    #[error("guest memory could not be accessed: {0}")]
    Memory(#[from] MemoryError),
}

/// Memory that pages arrive in. It is read, too: a difference is applied to what is there.
pub trait PageStore: Memory {
    /// Writes whole pages of `slot` from `first`.
    ///
    /// # Errors
    /// If they are not this memory's, or it cannot be written.
    fn write(&self, slot: SlotId, first: u64, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Makes `count` pages of `slot` from `first` zeros, where that is possible at less cost than by writing them.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn zero(&self, slot: SlotId, first: u64, count: u64) -> Result<(), MemoryError>;
}

/// Turns frames into pages; one a stream.
#[derive(Debug)]
pub struct Decoder {
    page: usize,
    /// The hash of a page of zeros.
    zero: u64,
    pages: Vec<u8>,
    old: Vec<u8>,
}

impl Decoder {
    /// A decoder of pages of `page_size`.
    #[must_use]
    pub fn new(page_size: PageSize) -> Self {
        let page = usize::try_from(page_size.bytes()).unwrap_or(usize::MAX);
        Self { page, zero: hash_content(&vec![0; page]), pages: Vec::new(), old: Vec::new() }
    }

    /// Writes the pages of `frame` to `memory`, and tells `seen` the hash of each.
    ///
    /// # Errors
    /// [`DecodeError`]; part of the run may have been written.
    pub fn decode(
        &mut self,
        frame: &[u8],
        slots: &SlotTable,
        memory: &dyn PageStore,
        seen: &mut dyn FnMut(&Run, u64, u64),
    ) -> Result<Run, DecodeError> {
        let (run, bytes) = Run::decode(frame, slots)?;
        match run.encoding {
            Encoding::Zero | Encoding::Word => self.fill(&run, bytes, memory, seen)?,
            _ => self.other(&run, bytes, memory, seen)?,
        }
        Ok(run)
    }

    fn fill(
        &mut self,
        run: &Run,
        bytes: &[u8],
        memory: &dyn PageStore,
        seen: &mut dyn FnMut(&Run, u64, u64),
    ) -> Result<(), DecodeError> {
        let pages = run.first..run.first + u64::from(run.count);
        if run.encoding == Encoding::Zero {
            if !bytes.is_empty() {
                return Err(self.content(run, "zeros have no bytes"));
            }
            memory.zero(run.slot, run.first, run.count.into())?;
            pages.for_each(|page| seen(run, page, self.zero));
            return Ok(());
        }
        let word = bytes.as_array().ok_or_else(|| self.content(run, "a word has eight bytes"))?;
        self.pages.clear();
        self.pages.resize(self.page, 0);
        self.pages.as_chunks_mut::<8>().0.fill(*word);
        let hash = hash_content(&self.pages);
        for page in pages {
            memory.write(run.slot, page, &self.pages)?;
            seen(run, page, hash);
        }
        Ok(())
    }

    fn other(
        &mut self,
        run: &Run,
        bytes: &[u8],
        memory: &dyn PageStore,
        seen: &mut dyn FnMut(&Run, u64, u64),
    ) -> Result<(), DecodeError> {
        let count = usize::try_from(run.count).unwrap_or(usize::MAX);
        // What a frame may hold uncompressed bounds what it may hold compressed.
        let length = count.checked_mul(self.page).filter(|length| *length <= Kind::Pages.most());
        let length = length.ok_or_else(|| self.content(run, "more than a frame has"))?;
        if run.encoding == Encoding::Raw {
            if bytes.len() != length {
                return Err(self.content(run, "another number of bytes"));
            }
            return self.store(run, bytes, memory, seen);
        }
        let mut room = std::mem::take(&mut self.pages);
        if room.len() < length {
            room.resize(length, 0);
        }
        let pages = &mut room[..length];
        let got = match run.encoding {
            Encoding::Zstd => zstd::bulk::decompress_to_buffer(bytes, pages).map_err(|e| e.to_string()),
            _ => lz4_flex::block::decompress_into(bytes, pages).map_err(|e| e.to_string()),
        };
        let result = match got {
            Ok(got) if got == length => {
                self.apply(run, pages, memory).and_then(|()| self.store(run, pages, memory, seen))
            }
            Ok(got) => Err(self.content(run, &format!("{got} bytes come of it"))),
            Err(what) => Err(self.content(run, &what)),
        };
        self.pages = room;
        result
    }

    /// Makes pages of a difference.
    fn apply(&mut self, run: &Run, pages: &mut [u8], memory: &dyn PageStore) -> Result<(), DecodeError> {
        if run.encoding == Encoding::Delta {
            self.old.clear();
            self.old.resize(pages.len(), 0);
            memory.read_run(run.slot, run.first, &mut self.old)?;
            pages.iter_mut().zip(&self.old).for_each(|(new, old)| *new ^= old);
        }
        Ok(())
    }

    fn store(
        &self,
        run: &Run,
        pages: &[u8],
        memory: &dyn PageStore,
        seen: &mut dyn FnMut(&Run, u64, u64),
    ) -> Result<(), DecodeError> {
        memory.write(run.slot, run.first, pages)?;
        (run.first..)
            .zip(pages.chunks_exact(self.page))
            .for_each(|(page, bytes)| seen(run, page, hash_content(bytes)));
        Ok(())
    }

    fn content(&self, run: &Run, what: &str) -> DecodeError {
        let pages = u64::from(run.count).saturating_mul(self.page as u64);
        DecodeError::Content { encoding: run.encoding, pages, what: what.into() }
    }
}
