//! Images that are being written, and what dead writers left of them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;

/// The file in a partial image whose lock its writer holds.
const LOCK: &str = "lock";

/// The directory of an image being written. Dropping it removes what is there.
#[derive(Debug)]
pub(crate) struct Partial {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// Locked for as long as the writer lives; the kernel frees the lock of a killed one.
    lock: File,
    published: bool,
}

/// A random number for names: two writers at once, or two images of one instant, must differ.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(u64::from_le_bytes(bytes))
}

impl Partial {
    /// Makes a partial image in the directory `parent`. The caller holds the lock of the store, so that nobody sweeps
    /// the directory before its lock is taken.
    pub(crate) fn create(parent: &Path, disk: &Arc<dyn Disk>) -> io::Result<Self> {
        let dir = parent.join(format!("{:016x}", random()?));
        disk.create_dir(&dir)?;
        let locked = || -> io::Result<File> {
            let path = dir.join(LOCK);
            let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            lock.lock()?;
            Ok(lock)
        };
        match locked() {
            Ok(lock) => Ok(Self { dir, disk: Arc::clone(disk), lock, published: false }),
            Err(e) => {
                // What cannot be removed is swept later, its lock being free.
                let _ = disk.remove_dir_all(&dir);
                Err(e)
            }
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the lock file, which is no part of an image. The caller holds the lock of the store until the image is
    /// visible, so that nobody takes the directory for a leftover.
    pub(crate) fn remove_lock(&self) -> io::Result<()> {
        self.disk.remove_file(&self.dir.join(LOCK))
    }

    /// The directory has its final name: nothing is left to remove.
    pub(crate) fn published(mut self) {
        self.published = true;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = self.disk.remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, "an unfinished image is left; the next writer removes it");
        }
        // Closing the file frees the lock, after the directory is gone.
        let _ = self.lock.unlock();
    }
}

/// Removes the partial images in `parent` whose writers are gone, and returns how many there were. The caller holds
/// the lock of the store, so that a directory without a lock is nobody's.
pub(crate) fn sweep(parent: &Path, disk: &Arc<dyn Disk>) -> io::Result<u64> {
    let mut swept = 0;
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let dir = entry.path();
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.len() == 16 && n.bytes().all(|b| b.is_ascii_hexdigit()));
        if !ours || !entry.file_type()?.is_dir() {
            tracing::warn!(path = %dir.display(), "not an unfinished image; left alone");
            continue;
        }
        if writer_is_gone(&dir.join(LOCK))? {
            match disk.remove_dir_all(&dir) {
                // Its writer was alive after all, and is removing it itself.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                removed => removed?,
            }
            tracing::info!(dir = %dir.display(), "removed what a killed writer left");
            swept += 1;
        }
    }
    Ok(swept)
}

fn writer_is_gone(lock: &Path) -> io::Result<bool> {
    let lock = match OpenOptions::new().write(true).open(lock) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e),
    };
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}
