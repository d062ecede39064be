//! Bytes on their way to a file.
//!
//! Where they are to be durable, large stretches go to the disk directly: the processors do not copy them to the page
//! cache, and the last sync has nothing left to write. The disk takes whole blocks then, so what does not fill one waits
//! for what comes behind it. Small files, the end of a file, and file systems without direct writes have plain ones.

use std::io;
use std::sync::Arc;

use super::disk::DiskFile;
use crate::aligned::{Aligned, BLOCK};
use crate::backend::Durability;

/// Bytes after which the disk is told to begin with what is in the page cache: enough for it to work at full speed,
/// little enough that the last sync, which a checkpoint waits for, has not much left to do.
const START_SYNC: u64 = 8 << 20;

/// Bytes that are collected for one direct write: enough for the disk to work at full speed.
const STAGED: usize = 4 << 20;

/// The least that is written directly: a write waits for the disk, which costs more than a copy where there is little to do.
const LARGE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Stream {
    file: Arc<dyn DiskFile>,
    durability: Durability,
    /// Whether large stretches are written directly. The file's length is a multiple of a block then.
    direct: bool,
    /// Bytes that are not written yet.
    staged: Aligned,
    /// Bytes in the file.
    written: u64,
    /// Those of them that the disk has or was told to write.
    started: u64,
}

impl Stream {
    pub(super) const fn new(file: Arc<dyn DiskFile>, durability: Durability) -> Self {
        let direct = matches!(durability, Durability::Full);
        Self { file, durability, direct, staged: Aligned::new(STAGED, 0), written: 0, started: 0 }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.direct {
            self.flush()?;
            return self.plain(bytes);
        }
        let missing = self.staged.len().next_multiple_of(BLOCK) - self.staged.len();
        if bytes.len() >= LARGE && bytes[missing..].as_ptr().addr().is_multiple_of(BLOCK) {
            let (head, rest) = bytes.split_at(missing);
            let (blocks, tail) = rest.split_at(rest.len() / BLOCK * BLOCK);
            self.staged.extend(head);
            self.direct(blocks)?;
            self.staged.extend(tail);
            return Ok(());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, behind) = rest.split_at(rest.len().min(self.staged.room()));
            self.staged.extend(now);
            if self.staged.room() == 0 {
                self.direct(&[])?;
            }
            rest = behind;
        }
        Ok(())
    }

    /// Writes what is left, and makes all of it durable.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let blocks = self.staged.len() / BLOCK * BLOCK;
        if self.direct && blocks >= LARGE {
            let end = self.staged[blocks..].to_vec();
            self.staged.truncate(blocks);
            self.direct(&[])?;
            self.staged.extend(&end);
        }
        self.flush()
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match self.durability {
            Durability::Full => self.file.sync(),
            Durability::None => Ok(()),
        }
    }

    /// Writes what is staged, and `more` behind it, directly if that is possible. Both are whole blocks.
    fn direct(&mut self, more: &[u8]) -> io::Result<()> {
        let pieces = [&*self.staged, more];
        let pieces = &pieces[usize::from(self.staged.is_empty())..if more.is_empty() { 1 } else { 2 }];
        self.direct = self.file.append_direct(pieces)?;
        if !self.direct {
            self.flush()?;
            return self.plain(more);
        }
        self.written += (self.staged.len() + more.len()) as u64;
        self.started = self.written;
        self.staged.restart(0);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        self.file.append(&self.staged)?;
        self.note(self.staged.len())?;
        self.staged.restart(0);
        Ok(())
    }

    fn plain(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.append(bytes)?;
        self.note(bytes.len())
    }

    /// As many bytes are in the page cache.
    fn note(&mut self, len: usize) -> io::Result<()> {
        self.written += len as u64;
        let behind = self.written - self.started;
        if behind >= START_SYNC && self.durability == Durability::Full {
            self.file.start_sync(self.started, behind)?;
            self.started = self.written;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
