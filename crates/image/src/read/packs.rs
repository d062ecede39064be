//! The packs of an image, open as far as they were used.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::backend::Object;
use crate::format::header::{self, damaged};
use crate::format::meta::PackRecord;
use crate::{ImageError, Store};

/// Blocks of packs that are kept; a block is what the backend reads ahead.
const BLOCKS: usize = 64;

/// The packs that an image needs.
#[derive(Debug)]
pub(crate) struct Packs {
    store: Store,
    packs: Vec<Pack>,
    block: usize,
    blocks: Mutex<VecDeque<CachedBlock>>,
}

#[derive(Debug)]
struct Pack {
    record: PackRecord,
    object: OnceLock<Arc<dyn Object>>,
}

#[derive(Clone, Debug)]
struct CachedBlock {
    pack: u32,
    number: u64,
    bytes: Arc<[u8]>,
}

impl Packs {
    pub(crate) fn new(store: Store, records: Vec<PackRecord>) -> Self {
        let block = store.backend().read_ahead().max(4096);
        let packs = records.into_iter().map(|record| Pack { record, object: OnceLock::new() }).collect();
        Self { store, packs, block, blocks: Mutex::default() }
    }

    /// Fills `buf` from `offset` of pack `number`, which has to be within the blocks of the pack.
    pub(crate) fn read(&self, number: u32, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let pack = self.within(number, offset, buf.len() as u64)?;
        self.read_pack(pack, offset, buf)
    }

    /// As [`read`](Self::read), for a few bytes whose neighbours will be asked for next.
    pub(crate) fn read_near(&self, number: u32, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let pack = self.within(number, offset, buf.len() as u64)?;
        let size = self.block as u64;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let block = self.block(pack, at / size)?;
            let skip = usize::try_from(at % size).unwrap_or(usize::MAX);
            let Some(found) = block.get(skip..).filter(|b| !b.is_empty()) else {
                return Err(damaged(&self.name(pack), format!("it has no byte {at}")));
            };
            let len = found.len().min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&found[..len]);
            done += len;
        }
        Ok(())
    }

    /// Threads that are worth while for reading.
    pub(crate) fn readers(&self) -> usize {
        self.store.backend().readers().max(1)
    }

    /// The records, in the order of their numbers.
    pub(crate) fn records(&self) -> impl Iterator<Item = &PackRecord> {
        self.packs.iter().map(|p| &p.record)
    }

    /// Reads the header of pack `number` and checks it, and returns the bytes of its table.
    pub(crate) fn frame(&self, number: u32) -> Result<Vec<u8>, ImageError> {
        let pack = self.pack(number)?;
        let mut head = [0; header::LEN];
        self.read_pack(pack, 0, &mut head)?;
        header::check(&self.name(pack), &head, header::PACK)?;
        let len = usize::try_from(pack.record.table_len).unwrap_or(usize::MAX);
        let mut table = Vec::new();
        if table.try_reserve_exact(len).is_err() {
            return Err(damaged(
                &self.name(pack),
                format!("a table of {len} bytes does not fit into memory"),
            ));
        }
        table.resize(len, 0);
        self.read_pack(pack, pack.record.blocks_end(), &mut table)?;
        Ok(table)
    }

    /// How messages name pack `number`.
    pub(crate) fn name_of(&self, number: u32) -> String {
        match self.pack(number) {
            Ok(pack) => self.name(pack),
            Err(_) => format!("pack {number} of {}", self.store.location()),
        }
    }

    fn name(&self, pack: &Pack) -> String {
        self.store.name(&pack.record.key())
    }

    fn pack(&self, number: u32) -> Result<&Pack, ImageError> {
        let found = self.packs.binary_search_by_key(&number, |p| p.record.number);
        found.map(|i| &self.packs[i]).map_err(|_| {
            damaged(self.store.location(), format!("an index names pack {number}, which its image does not"))
        })
    }

    fn within(&self, number: u32, offset: u64, len: u64) -> Result<&Pack, ImageError> {
        let pack = self.pack(number)?;
        let end = offset.checked_add(len).filter(|end| *end <= pack.record.blocks_end());
        if offset < header::LEN as u64 || end.is_none() {
            let what = format!("an index names {len} bytes at byte {offset} of it, where it has none");
            return Err(damaged(&self.name(pack), what));
        }
        Ok(pack)
    }

    fn read_pack(&self, pack: &Pack, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let key = || pack.record.key();
        let object = if let Some(object) = pack.object.get() {
            object
        } else {
            let object = self.store.backend().open(&key()).map_err(|e| self.store.io_error(&key(), e))?;
            pack.object.get_or_init(|| object)
        };
        object.read_at(buf, offset).map_err(|e| self.store.io_error(&key(), e))
    }

    fn block(&self, pack: &Pack, number: u64) -> Result<Arc<[u8]>, ImageError> {
        let wanted = |b: &CachedBlock| b.pack == pack.record.number && b.number == number;
        let lock = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().iter().find(|b| wanted(b)) {
            return Ok(Arc::clone(&found.bytes));
        }
        let start = number.saturating_mul(self.block as u64);
        let len = pack.record.blocks_end().saturating_sub(start).min(self.block as u64);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.read_pack(pack, start, &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        let mut blocks = lock();
        if blocks.len() == BLOCKS {
            blocks.pop_front();
        }
        blocks.push_back(CachedBlock { pack: pack.record.number, number, bytes: Arc::clone(&bytes) });
        Ok(bytes)
    }
}
