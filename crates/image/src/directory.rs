//! A store in a directory: an object is a file.
//!
//! A file is written beside its final name, with `.part` appended, synced, renamed, and its directory synced. `lock` is
//! held for moments: while metadata becomes visible, and while leftovers are looked for. A writer's claim is a file
//! under `writers` that it keeps locked: the lock is free when the writer is dead, however it died.

mod claims;
mod direct;
mod disk;
mod founding;
mod stream;
mod upload;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::{Disk, DiskFile, RealDisk};

use crate::OpenStoreError;
use crate::backend::{Backend, Claim, Claimed, Durability, Listed, Object, Upload};
use upload::FileUpload;

/// The directories of a store.
const IMAGES: &str = "images";
const PACKS: &str = "packs";
const WRITERS: &str = "writers";
const LOCK: &str = "lock";
/// Behind the name of a file that is not complete.
const PART: &str = ".part";

/// A directory as the place of a store.
#[derive(Clone, Debug)]
pub struct Directory {
    dir: PathBuf,
    location: String,
    disk: Arc<dyn Disk>,
    durability: Durability,
}

impl Directory {
    /// The directory `dir`, changed through `disk`. It need not exist.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, disk: Arc<dyn Disk>) -> Self {
        let dir = dir.into();
        let location = dir.display().to_string();
        Self { dir, location, disk, durability: Durability::Full }
    }

    /// Opens the store in it; founds one where there is nothing, or an empty directory, if `create` is set.
    pub(crate) fn open_store(self, create: bool) -> Result<Self, OpenStoreError> {
        match founding::check(&self.dir) {
            Err(OpenStoreError::Absent(_) | OpenStoreError::Empty(_)) if create => {
                founding::found(&self.dir, &*self.disk)?;
            }
            other => other?,
        }
        Ok(self)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    /// Waits for the lock of the store, which is freed when the file is dropped.
    fn lock(&self) -> io::Result<File> {
        let lock = OpenOptions::new().write(true).open(self.dir.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }

    /// Makes the entries of the directory of `path` durable.
    fn sync_dir_of(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(dir) if self.durability == Durability::Full => self.disk.sync_dir(dir),
            _ => Ok(()),
        }
    }
}

impl Backend for Directory {
    fn location(&self) -> &str {
        &self.location
    }

    fn with_durability(self: Arc<Self>, durability: Durability) -> Arc<dyn Backend> {
        Arc::new(Self { durability, ..(*self).clone() })
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        let path = self.path(key);
        // Held to the end, so that nobody takes the unfinished file for a leftover.
        let _lock = self.lock()?;
        if path.try_exists()? {
            return Ok(false);
        }
        let mut upload = FileUpload::begin(self.clone(), path)?;
        upload.append(bytes)?;
        Box::new(upload).commit()?;
        Ok(true)
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        Ok(Box::new(FileUpload::begin(self.clone(), self.path(key))?))
    }

    fn open(&self, key: &str) -> io::Result<Arc<dyn Object>> {
        let file = File::open(self.path(key))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
        }
        Ok(Arc::new(file))
    }

    fn sizes(&self, keys: &[String]) -> io::Result<Vec<Option<u64>>> {
        let size = |key: &String| match fs::metadata(self.path(key)) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        keys.iter().map(size).collect()
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(self.path(prefix))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(PART) {
                continue;
            }
            match entry.metadata() {
                Ok(found) => listed.push(Listed { key: format!("{prefix}{name}"), len: found.len() }),
                // Deleted since.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(listed)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        let path = self.path(key);
        match self.disk.remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => self.sync_dir_of(&path),
        }
    }

    fn claim(&self, writer: &str, bytes: &[u8]) -> io::Result<Box<dyn Claim>> {
        Ok(Box::new(claims::claim(self, writer, bytes)?))
    }

    fn claims(&self) -> io::Result<Vec<Claimed>> {
        claims::all(self)
    }

    fn bury(&self, writer: &str) -> io::Result<()> {
        claims::bury(self, writer)
    }
}

impl Object for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }
}
