//! The operations on a directory that a writer depends on, as a seam.
//!
//! A store changes a directory through these few operations only. Tests replace them to fail or to die at a chosen
//! one, and so reach every state that a crash, a full disk or a failing device can leave.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::direct;

/// What a store asks of the file system when it changes something.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates the directory `path`, for the owner only.
    ///
    /// # Errors
    /// As `mkdir(2)`; an existing `path` is an error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates the file `path`, for the owner only, empty and open for writing.
    ///
    /// # Errors
    /// As `open(2)` with `O_CREAT | O_EXCL`; an existing `path` is an error.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes the entries of the directory `path` durable.
    ///
    /// # Errors
    /// As `fsync(2)`.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives `from` the name `to` in one step.
    ///
    /// # Errors
    /// As `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the file `path`.
    ///
    /// # Errors
    /// As `unlink(2)`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
}

/// A file that a store writes from its first byte to its last.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// As `write(2)`; some of the bytes may have been written.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    /// Appends all of `pieces` past the page cache, or says with `false` that the file system cannot, and appends nothing.
    /// Pieces begin in memory at multiples of 4096, and all lengths, the file's included, are such.
    ///
    /// # Errors
    /// As `write(2)`; some of the bytes may have been written.
    fn append_direct(&self, pieces: &[&[u8]]) -> io::Result<bool>;

    /// Starts to write `len` bytes from `offset` on to the disk, so that [`sync`](Self::sync) has less left to do.
    ///
    /// # Errors
    /// As `sync_file_range(2)`.
    fn start_sync(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the bytes written so far durable, and the length with them.
    ///
    /// # Errors
    /// As `fdatasync(2)`. The kernel reports a failed write-back once and forgets it: a second call that succeeds
    /// proves nothing, so the image is lost with the first error.
    fn sync(&self) -> io::Result<()>;
}

/// The file system itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

impl DiskFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&mut &*self).write_all(bytes)
    }

    fn append_direct(&self, pieces: &[&[u8]]) -> io::Result<bool> {
        direct::append(self, pieces)
    }

    fn start_sync(&self, offset: u64, len: u64) -> io::Result<()> {
        match sync_file_range(self, offset, len) {
            // A file system without it starts at its own time.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE)) => Ok(()),
            other => other,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[allow(unsafe_code, reason = "rustix and std have no sync_file_range")]
fn sync_file_range(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let out_of_range = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let (offset, len) = (offset.try_into().map_err(out_of_range)?, len.try_into().map_err(out_of_range)?);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the call takes no pointers, and the descriptor is open as long as `file` is borrowed.
    match unsafe { libc::sync_file_range(fd, offset, len, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
