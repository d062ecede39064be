//! The threads that turn puts into packs.
//!
//! There are [`BATCHES`] batches, which bounds the memory. The first error of any thread is kept, ends them all, and is
//! what the writer reports from then on.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use super::batch::{Batch, Item};
use super::pack::PackWriter;
use super::table::{Homes, PageTable};
use super::upkeep::Upkeep;
use crate::format::blocks::BlockKind;
use crate::format::header;
use crate::format::meta::{Digest, StateRecord};
use crate::format::node::{Extent, Hash};
use crate::{Image, Layout, WriteError};

/// Batches in use at a time: being filled, encoded, written, and one between.
const BATCHES: usize = 4;

#[derive(Debug)]
enum Job {
    Batch(Batch),
    State { name: String, bytes: Vec<u8> },
}

/// What the threads share with the writer.
#[derive(Debug, Default)]
struct Shared {
    error: OnceLock<WriteError>,
    /// The writer was dropped: nothing more needs doing.
    given_up: AtomicBool,
}

impl Shared {
    fn fail(&self, error: WriteError) {
        // Only the first error says what happened; the later ones follow from it.
        let _ = self.error.set(error);
    }

    fn is_over(&self) -> bool {
        self.error.get().is_some() || self.given_up.load(Ordering::Relaxed)
    }
}

/// What was put, when all of it is in packs.
#[derive(Debug)]
pub(crate) struct Complete {
    pub(crate) table: PageTable,
    pub(crate) extents: Vec<Extent>,
    pub(crate) states: Vec<StateRecord>,
    pub(crate) packs: PackWriter,
}

/// The threads of a writer.
#[derive(Debug)]
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    /// The batch being filled.
    batch: Batch,
    full: Option<SyncSender<Job>>,
    empty: Receiver<Batch>,
    encoder: Option<JoinHandle<()>>,
    writer: Option<JoinHandle<Complete>>,
}

impl Pipeline {
    pub(crate) fn start(
        layout: &Layout,
        parent: Option<Image>,
        seed: u64,
        packs: PackWriter,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let increment = parent.is_some();
        let (full, to_encode) = sync_channel::<Job>(BATCHES);
        let (encoded, to_write) = sync_channel::<Job>(BATCHES);
        let (emptied, empty) = sync_channel::<Batch>(BATCHES);
        for _ in 1..BATCHES {
            // The channel has room for all of them.
            let _ = emptied.try_send(Batch::new(layout, increment, header::LEN));
        }
        let of_encoder = Arc::clone(&shared);
        let encoder = Builder::new().name("image-encode".to_owned()).spawn(move || {
            let mut upkeep = Upkeep::new(parent.as_ref());
            for mut job in to_encode {
                if let Job::Batch(batch) = &mut job
                    && !of_encoder.is_over()
                    && let Err(error) = batch.encode(parent.as_ref(), seed, &mut upkeep)
                {
                    of_encoder.fail(WriteError::Parent(Arc::new(error)));
                }
                if encoded.send(job).is_err() {
                    return;
                }
            }
        })?;
        let of_writer = Arc::clone(&shared);
        let writer = Builder::new().name("image-write".to_owned()).spawn(move || {
            let mut complete =
                Complete { table: PageTable::default(), extents: Vec::new(), states: Vec::new(), packs };
            for job in to_write {
                if !of_writer.is_over()
                    && let Err(error) = complete.take(&job)
                {
                    of_writer.fail(error);
                }
                if let Job::Batch(mut batch) = job {
                    batch.clear(complete.packs.phase());
                    // The writer is gone if nobody takes it.
                    let _ = emptied.try_send(batch);
                }
            }
            complete
        })?;
        Ok(Self {
            shared,
            batch: Batch::new(layout, increment, header::LEN),
            full: Some(full),
            empty,
            encoder: Some(encoder),
            writer: Some(writer),
        })
    }

    fn check(&self) -> Result<(), WriteError> {
        self.shared.error.get().map_or(Ok(()), |e| Err(e.clone()))
    }

    pub(crate) fn put(&mut self, first: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let (mut first, mut rest) = (first, bytes);
        while !rest.is_empty() {
            self.check()?;
            let (taken, behind) = self.batch.fill(first, rest);
            (first, rest) = (first + taken, behind);
            if self.batch.is_full() {
                self.send_batch()?;
            }
        }
        Ok(())
    }

    pub(crate) fn put_zero(&mut self, pages: Range<u64>) -> Result<(), WriteError> {
        self.check()?;
        self.batch.fill_zero(pages);
        if self.batch.is_full() { self.send_batch() } else { Ok(()) }
    }

    pub(crate) fn put_state(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        self.check()?;
        self.send(Job::State { name: name.to_owned(), bytes: bytes.to_vec() })
    }

    /// Sends the batch on, and waits for an empty one.
    fn send_batch(&mut self) -> Result<(), WriteError> {
        let Ok(empty) = self.empty.recv() else { return self.died() };
        let full = std::mem::replace(&mut self.batch, empty);
        self.send(Job::Batch(full))
    }

    fn send(&self, job: Job) -> Result<(), WriteError> {
        match &self.full {
            Some(full) => match full.try_send(job) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(job)) => full.send(job).or_else(|_| self.died()),
                Err(TrySendError::Disconnected(_)) => self.died(),
            },
            None => self.died(),
        }
    }

    fn died(&self) -> Result<(), WriteError> {
        self.check()?;
        let source = io::Error::other("a thread of the writer ended early");
        Err(WriteError::io("writing an image to", "the store", source, 0))
    }

    /// Waits until all that was put is in packs.
    pub(crate) fn finish(mut self) -> Result<Complete, WriteError> {
        if !self.batch.is_empty() {
            self.send_batch()?;
        }
        self.full = None;
        if let Some(encoder) = self.encoder.take()
            && encoder.join().is_err()
        {
            self.died()?;
        }
        let complete = self.writer.take().and_then(|writer| writer.join().ok());
        self.check()?;
        match complete {
            Some(complete) => Ok(complete),
            None => Err(self.died().err().unwrap_or(WriteError::TooManyPacks { max: 0 })),
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.given_up.store(true, Ordering::Relaxed);
        self.full = None;
        // What the threads hold, above all an upload, is gone when the caller goes on.
        let _ = self.encoder.take().map(JoinHandle::join);
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

impl Complete {
    fn take(&mut self, job: &Job) -> Result<(), WriteError> {
        match job {
            Job::Batch(batch) => self.take_batch(batch),
            Job::State { name, bytes } => self.take_state(name, bytes),
        }
    }

    fn take_batch(&mut self, batch: &Batch) -> Result<(), WriteError> {
        for (item, output) in batch.items() {
            let group = match item {
                Item::Zero(pages) => {
                    self.table.put_zero(pages);
                    continue;
                }
                Item::Pages(group) => group,
            };
            let first = self.extents.len();
            for coded in &output.extents {
                let kind =
                    BlockKind::Extent { encoding: coded.encoding, leaf: group.leaf, pages: coded.pages };
                let (pack, offset) = self.packs.announce(kind, coded.hash, coded.len())?;
                #[allow(clippy::cast_possible_truncation, reason = "at most 64 pages, and a megabyte")]
                let (len, pages) = (coded.len() as u32, coded.pages.count_ones() as u8);
                let encoding = coded.encoding;
                self.extents.push(Extent { pack, offset, len, pages, encoding, hash: coded.hash });
            }
            let numbers = (first..).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            let homes = Homes::new(numbers.zip(output.extents.iter().map(|e| e.pages)));
            self.table.put(group.leaf, group.pages, &output.fates, &homes);
            let gathered = output.gathered.iter().map(|g| (g.page, g.hash));
            self.table.gather(group.leaf, gathered, &homes);
        }
        batch.stored(|bytes| self.packs.send(bytes))?;
        self.packs.roll()
    }

    fn take_state(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let blake3 = Digest::of(bytes);
        let mut hash = Hash::default();
        hash.copy_from_slice(&blake3.0[..16]);
        let (pack, offset) = self.packs.append(BlockKind::State, hash, bytes)?;
        let len = bytes.len() as u64;
        self.states.push(StateRecord { name: name.to_owned(), pack, offset, len, blake3 });
        self.packs.roll()
    }
}
