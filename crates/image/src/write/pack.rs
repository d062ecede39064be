//! The packs of an image being written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::aligned::BLOCK;
use crate::backend::Upload;
use crate::format::blocks::{self, Block, BlockKind};
use crate::format::header;
use crate::format::meta::{Digest, MAX_PACKS, PackRecord};
use crate::format::node::{self, Hash};
use crate::{Store, WriteError};

/// Bytes after which a pack is closed: large enough that an object store has few of them, small enough that one of them
/// is sent again quickly, and that removing an image frees most of what nobody needs.
pub(crate) const PACK_BYTES: u64 = 256 << 20;

/// What the threads of a writer share with it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Bytes handed to the backend.
    written: AtomicU64,
    /// Keys of packs that were committed, or may have been.
    committed: Mutex<Vec<String>>,
}

impl Ledger {
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn committed(&self) -> Vec<String> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Open {
    upload: Box<dyn Upload>,
    name: String,
    /// Where the next block will be.
    offset: u64,
    blocks: Vec<Block>,
}

/// Appends blocks to packs, one after the other.
#[derive(Debug)]
pub(crate) struct PackWriter {
    store: Store,
    writer: String,
    first: u32,
    open: Option<Open>,
    done: Vec<PackRecord>,
    ledger: Arc<Ledger>,
}

impl PackWriter {
    /// Of the writer of this name, whose packs have numbers from `first` on.
    pub(crate) fn new(store: Store, writer: String, first: u32, ledger: Arc<Ledger>) -> Self {
        Self { store, writer, first, open: None, done: Vec::new(), ledger }
    }

    fn number(&self) -> Option<u32> {
        // One more than the last has to have a number too.
        u32::try_from(self.done.len()).ok().and_then(|n| self.first.checked_add(n)).filter(|n| *n < u32::MAX)
    }

    /// Where the next block will be: the number of its pack, and its offset there.
    pub(crate) fn position(&mut self) -> Result<(u32, u64), WriteError> {
        let number = self.number().filter(|_| self.done.len() < MAX_PACKS);
        let number = number.ok_or(WriteError::TooManyPacks { max: MAX_PACKS })?;
        if self.open.is_none() {
            let name = format!("{}-{}", self.writer, self.done.len());
            let key = format!("packs/{name}");
            let begun = self.store.backend().upload(&key);
            let upload = begun.map_err(|e| self.failed("creating", &key, e))?;
            let head = header::encode(header::PACK);
            self.open = Some(Open { upload, name, offset: head.len() as u64, blocks: Vec::new() });
            self.send(&head)?;
        }
        Ok((number, self.open.as_ref().map_or(0, |open| open.offset)))
    }

    /// Where blocks come to lie in a pack, of a block of the disk: those to come, too, as long as what is written are
    /// whole pages.
    pub(crate) fn phase(&self) -> usize {
        let offset = self.open.as_ref().map_or(header::LEN as u64, |open| open.offset);
        usize::try_from(offset % BLOCK as u64).unwrap_or_default()
    }

    /// Appends a block whose bytes have the hash `hash`. Returns the number of its pack, and its offset there.
    pub(crate) fn append(
        &mut self,
        kind: BlockKind,
        hash: Hash,
        bytes: &[u8],
    ) -> Result<(u32, u64), WriteError> {
        let position = self.announce(kind, hash, bytes.len())?;
        self.send(bytes)?;
        Ok(position)
    }

    /// As [`append`](Self::append), of `len` bytes that are to follow those announced before: all are sent before anything
    /// else is done.
    pub(crate) fn announce(
        &mut self,
        kind: BlockKind,
        hash: Hash,
        len: usize,
    ) -> Result<(u32, u64), WriteError> {
        let position = self.position()?;
        if let (Some(open), Ok(len)) = (&mut self.open, u32::try_from(len)) {
            open.blocks.push(Block { kind, len, hash });
            open.offset += u64::from(len);
        }
        Ok(position)
    }

    /// Appends a block of the index.
    pub(crate) fn append_index(&mut self, nodes: &[u8]) -> Result<(), WriteError> {
        self.append(BlockKind::Index, node::hash(nodes), nodes).map(drop)
    }

    /// Closes the pack if it is large enough. Where blocks refer to each other by position, this is between them.
    pub(crate) fn roll(&mut self) -> Result<(), WriteError> {
        match &self.open {
            Some(open) if open.offset >= PACK_BYTES => self.close(),
            _ => Ok(()),
        }
    }

    /// Closes the last pack, and returns all of them.
    pub(crate) fn finish(mut self) -> Result<Vec<PackRecord>, WriteError> {
        self.close()?;
        Ok(self.done)
    }

    fn close(&mut self) -> Result<(), WriteError> {
        let Some(open) = &self.open else { return Ok(()) };
        let table = blocks::encode(&open.blocks);
        let len = open.offset + table.len() as u64;
        self.send(&table)?;
        let number = self.number().ok_or(WriteError::TooManyPacks { max: MAX_PACKS })?;
        let Some(open) = self.open.take() else { return Ok(()) };
        let record = PackRecord {
            number,
            name: open.name,
            len,
            table_len: table.len() as u64,
            table: Digest::of(&table),
            pages: 0,
            nodes: 0,
        };
        let key = record.key();
        self.ledger.committed.lock().unwrap_or_else(PoisonError::into_inner).push(key.clone());
        open.upload.commit().map_err(|e| self.failed("making durable", &key, e))?;
        self.done.push(record);
        Ok(())
    }

    /// Sends bytes that were announced.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        match open.upload.append(bytes) {
            Ok(()) => {
                self.ledger.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => {
                let key = format!("packs/{}", open.name);
                Err(self.failed("writing", &key, e))
            }
        }
    }

    fn failed(&self, doing: &'static str, key: &str, source: std::io::Error) -> WriteError {
        WriteError::io(doing, &self.store.name(key), source, self.ledger.written())
    }
}
