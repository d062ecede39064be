//! A file on its way to its name.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ringmark_dirty::mutant::{self, Mutant};

use super::disk::DiskFile;
use super::{Directory, PART};
use crate::backend::{Durability, Upload};

/// Bytes after which the disk is told to begin: enough for it to work at full speed, little enough that the last sync,
/// which a checkpoint waits for, has not much left to do.
const START_SYNC: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct FileUpload {
    directory: Directory,
    /// The file's final name.
    path: PathBuf,
    part: PathBuf,
    file: Arc<dyn DiskFile>,
    written: u64,
    started: u64,
    committed: bool,
}

impl FileUpload {
    pub(super) fn begin(directory: Directory, path: PathBuf) -> io::Result<Self> {
        let mut part = path.clone().into_os_string();
        part.push(PART);
        let part = PathBuf::from(part);
        let file = directory.disk.create(&part)?;
        Ok(Self { directory, path, part, file, written: 0, started: 0, committed: false })
    }
}

impl Upload for FileUpload {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)?;
        self.written += bytes.len() as u64;
        let behind = self.written - self.started;
        if behind >= START_SYNC && self.directory.durability == Durability::Full {
            self.file.start_sync(self.started, behind)?;
            self.started = self.written;
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> io::Result<()> {
        let early = mutant::active(Mutant::VisibleBeforeDurable);
        if early {
            self.directory.disk.rename(&self.part, &self.path)?;
        }
        if self.directory.durability == Durability::Full {
            let synced = self.file.sync();
            if !mutant::active(Mutant::SyncErrorIgnored) {
                synced?;
            }
        }
        if !early {
            self.directory.disk.rename(&self.part, &self.path)?;
        }
        // Whatever happens from here on, the file has its final name.
        self.committed = true;
        self.directory.sync_dir_of(&self.path)
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.directory.disk.remove_file(&self.part)
            && error.kind() != io::ErrorKind::NotFound
        {
            let part = self.part.display();
            tracing::warn!(%part, %error, "an unfinished file is left; a later writer removes it");
        }
    }
}
