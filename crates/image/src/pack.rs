//! The threads that turn batches of pages into a pack.
//!
//! ```text
//! put ──batch──▶ encode (rayon) ──batch──▶ write, BLAKE3 ──▶ file
//!  ▲                                          │      └──every 32 MiB──▶ fdatasync
//!  └──────────────── empty batch ─────────────┘
//! ```
//!
//! There are [`BATCHES`] batches, which bounds the memory. The disk is kept busy from the beginning by a third thread
//! that calls `fdatasync` again and again, so that the last call, which a checkpoint waits for, has little left to do.
//! The first error of any thread is kept, ends them all, and is what the writer reports from then on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use ringmark_dirty::SlotId;

use crate::batch::Batch;
use crate::disk::DiskFile;
use crate::header;
use crate::index::Extent;
use crate::meta::FileRecord;
use crate::table::{MAX_EXTENTS, PageTable};
use crate::{Layout, WriteError};

/// Batches in use at a time: being filled, encoded, written, and one between.
const BATCHES: usize = 4;

/// Bytes between two calls of `fdatasync` on a pack that is being written.
const SYNC_EVERY: u64 = 32 << 20;

/// What the threads share with the writer.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    written: AtomicU64,
    error: OnceLock<WriteError>,
    /// The writer was dropped: nothing more needs doing.
    given_up: AtomicBool,
}

impl Shared {
    fn fail(&self, doing: &'static str, source: io::Error) {
        let written = self.written.load(Ordering::Relaxed);
        // Only the first error says what happened; the later ones follow from it.
        let _ = self.error.set(WriteError::io(doing, &self.path, source, written));
    }

    fn is_over(&self) -> bool {
        self.error.get().is_some() || self.given_up.load(Ordering::Relaxed)
    }

    fn append(&self, bytes: &[u8]) -> Result<(), ()> {
        self.file.append(bytes).map_err(|e| self.fail("writing", e))?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The pack of an image being written.
#[derive(Debug)]
pub(crate) struct Pack {
    shared: Arc<Shared>,
    /// The batch being filled.
    batch: Batch,
    full: Option<SyncSender<Batch>>,
    empty: Receiver<Batch>,
    encoder: Option<JoinHandle<()>>,
    writer: Option<JoinHandle<Option<Written>>>,
    syncer: Option<JoinHandle<()>>,
}

/// What the writing thread leaves.
struct Written {
    table: PageTable,
    extents: Vec<Extent>,
    hash: blake3::Hash,
}

/// A pack that is complete and durable.
pub(crate) struct Complete {
    pub(crate) table: PageTable,
    pub(crate) extents: Vec<Extent>,
    pub(crate) file: FileRecord,
}

impl Pack {
    /// Starts the threads of a pack that goes to `file`, just created at `path`.
    pub(crate) fn start(path: &Path, file: Arc<dyn DiskFile>, layout: &Layout) -> io::Result<Self> {
        let page_size = layout.page_size();
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            file,
            written: AtomicU64::new(0),
            error: OnceLock::new(),
            given_up: AtomicBool::new(false),
        });
        let (full, to_encode) = sync_channel::<Batch>(BATCHES);
        let (encoded, to_write) = sync_channel::<Batch>(BATCHES);
        let (emptied, empty) = sync_channel::<Batch>(BATCHES);
        let (grown, to_sync) = sync_channel::<()>(1);
        for _ in 1..BATCHES {
            // The channel has room for all batches.
            let _ = emptied.try_send(Batch::new(page_size));
        }
        let mut pack = Self {
            shared: Arc::clone(&shared),
            batch: Batch::new(page_size),
            full: Some(full),
            empty,
            encoder: None,
            writer: None,
            syncer: None,
        };
        let spawn = |name: &str| Builder::new().name(format!("image-{name}"));
        let state = Arc::clone(&shared);
        pack.encoder = Some(spawn("encode").spawn(move || {
            for mut batch in to_encode {
                if state.is_over() {
                    break;
                }
                batch.encode();
                if encoded.send(batch).is_err() {
                    break;
                }
            }
        })?);
        let table = PageTable::new(layout);
        let state = Arc::clone(&shared);
        pack.writer =
            Some(spawn("write").spawn(move || write_all(&state, table, &to_write, &emptied, &grown))?);
        let state = shared;
        pack.syncer = Some(spawn("sync").spawn(move || {
            for () in to_sync {
                if state.is_over() {
                    break;
                }
                if let Err(e) = state.file.sync() {
                    state.fail("fsync of", e);
                }
            }
        })?);
        Ok(pack)
    }

    /// Takes whole pages, the first of them `first` pages into `slot`; the caller has checked both.
    pub(crate) fn put(&mut self, slot: SlotId, mut first: u64, bytes: &[u8]) -> Result<(), WriteError> {
        if let Some(error) = self.shared.error.get() {
            return Err(error.clone());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken;
            (taken, rest) = self.batch.fill(slot, first, rest);
            first += taken;
            if self.batch.is_full() {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Takes a run of zero pages; the caller has checked it.
    pub(crate) fn put_zero(&mut self, slot: SlotId, first: u64, npages: u64) -> Result<(), WriteError> {
        if let Some(error) = self.shared.error.get() {
            return Err(error.clone());
        }
        self.batch.fill_zero(slot, first, npages);
        if self.batch.is_full() { self.send() } else { Ok(()) }
    }

    /// Hands the batch over and takes an empty one, waiting for it.
    fn send(&mut self) -> Result<(), WriteError> {
        let Ok(empty) = self.empty.recv() else { return Err(self.error()) };
        let batch = std::mem::replace(&mut self.batch, empty);
        match self.full.as_ref().map(|full| full.send(batch)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.error()),
        }
    }

    /// Why the threads have ended.
    fn error(&self) -> WriteError {
        let ended =
            || WriteError::io("writing", &self.shared.path, io::Error::other("a thread ended early"), 0);
        self.shared.error.get().cloned().unwrap_or_else(ended)
    }

    /// Bytes that were handed to the file system so far.
    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Writes what is left and waits until the pack is durable.
    pub(crate) fn finish(mut self) -> Result<Complete, WriteError> {
        if !self.batch.is_empty() {
            self.send()?;
        }
        let written = self.join();
        if let Some(error) = self.shared.error.get() {
            return Err(error.clone());
        }
        let Some(written) = written else { return Err(self.error()) };
        if let Err(e) = self.shared.file.sync() {
            self.shared.fail("fsync of", e);
            return Err(self.error());
        }
        let file = FileRecord { len: self.written(), blake3: written.hash };
        Ok(Complete { table: written.table, extents: written.extents, file })
    }

    /// Closes the way in and waits for the threads.
    fn join(&mut self) -> Option<Written> {
        self.full = None;
        let mut joined = true;
        for thread in [self.encoder.take(), self.syncer.take()].into_iter().flatten() {
            // The syncing thread ends with the writing one, which ends with the encoding one.
            joined &= thread.join().is_ok();
        }
        let written = self.writer.take().and_then(|thread| thread.join().ok().flatten());
        written.filter(|_| joined)
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        self.shared.given_up.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// The writing thread.
fn write_all(
    shared: &Shared,
    mut table: PageTable,
    batches: &Receiver<Batch>,
    emptied: &SyncSender<Batch>,
    grown: &SyncSender<()>,
) -> Option<Written> {
    let mut hasher = blake3::Hasher::new();
    let mut extents: Vec<Extent> = Vec::new();
    let mut since_sync = 0;
    let head = header::encode(header::PACK);
    hasher.update(&head);
    shared.append(&head).ok()?;
    for mut batch in batches {
        if shared.is_over() {
            return None;
        }
        let Ok(next) = u32::try_from(extents.len()) else { return None };
        if next >= MAX_EXTENTS - u32::from(u16::MAX) {
            shared.fail(
                "writing",
                io::Error::new(io::ErrorKind::FileTooLarge, "the pack has too many extents"),
            );
            return None;
        }
        let mut places = Places { extent: next, skip: 0, pages: Vec::new() };
        for (pages, encoding, stored) in batch.extents() {
            let offset = shared.written.load(Ordering::Relaxed);
            hasher.update(stored);
            shared.append(stored).ok()?;
            // An extent has at most 128 KiB, or one page of at most 1 MiB.
            let (Ok(len), Ok(pages)) = (u32::try_from(stored.len()), u16::try_from(pages)) else {
                return None;
            };
            extents.push(Extent { offset, len, pages, encoding });
            places.pages.push(pages);
            since_sync += stored.len() as u64;
        }
        places.record(&batch, &mut table);
        batch.clear();
        if since_sync >= SYNC_EVERY {
            match grown.try_send(()) {
                Ok(()) => since_sync = 0,
                // The disk is behind already; a second request would not make it faster.
                Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => return None,
            }
        }
        // The writer that would fill it may be gone.
        let _ = emptied.send(batch);
    }
    Some(Written { table, extents, hash: hasher.finalize() })
}

/// Walks the places of a batch's pages in the order in which they were put.
struct Places {
    extent: u32,
    skip: u32,
    /// Of the batch's extents.
    pages: Vec<u16>,
}

impl Places {
    fn record(mut self, batch: &Batch, table: &mut PageTable) {
        let mut hashes = batch.hashes().iter();
        let mut left = self.pages.iter().copied();
        let mut room = u32::from(left.next().unwrap_or(0));
        for entry in batch.entries() {
            if entry.zero {
                table.put_zero(entry.slot, entry.first, entry.npages);
                continue;
            }
            for page in entry.first..entry.first + entry.npages {
                if self.skip == room {
                    room = u32::from(left.next().unwrap_or(0));
                    self.extent += 1;
                    self.skip = 0;
                }
                table.put(entry.slot, page, self.extent, self.skip, hashes.next().copied().unwrap_or(0));
                self.skip += 1;
            }
        }
    }
}
