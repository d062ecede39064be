//! A disk that is full, fails, or is that of a writer that was killed.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringmark_image::{Disk, DiskFile, RealDisk};

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// There is no room for what is written (`ENOSPC`).
    Full,
    /// What was written cannot be made durable (`EIO`), which is said once.
    FailedSync,
    /// An object cannot be given its name (`EIO`), which is said once.
    FailedRename,
    /// The writer is dead: half of what it wrote last is there, and it does nothing more, not even clean up.
    KilledWriter,
}

impl DiskFault {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Full => "disk_full",
            Self::FailedSync => "failed_fsync",
            Self::FailedRename => "failed_rename",
            Self::KilledWriter => "killed_writer",
        }
    }

    /// Operations of which it strikes at one: so many are made for the smallest image.
    pub(crate) const fn operations(self) -> u64 {
        match self {
            Self::Full | Self::FailedSync => 4,
            Self::FailedRename => 2,
            Self::KilledWriter => 10,
        }
    }

    /// Whether it strikes at such an operation.
    const fn strikes(self, operation: Operation) -> bool {
        match self {
            Self::Full => matches!(operation, Operation::Append | Operation::Create),
            Self::FailedSync => matches!(operation, Operation::Sync),
            Self::FailedRename => matches!(operation, Operation::Rename),
            Self::KilledWriter => !matches!(operation, Operation::Remove),
        }
    }

    fn error(self) -> io::Error {
        io::Error::from(match self {
            Self::Full => io::ErrorKind::StorageFull,
            _ => io::ErrorKind::Other,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Create,
    Append,
    Sync,
    Rename,
    Remove,
}

/// The disk beneath one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What is to strike, after how many operations that it could strike at.
    armed: Option<(DiskFault, u64)>,
    struck: bool,
}

/// What is to be done of an operation.
enum Fate {
    Whole,
    /// Half of it, then the error.
    Half(io::Error),
    /// None of it.
    Nothing(io::Error),
}

impl FaultyDisk {
    /// Lets `fault` strike after `operations` operations that it could strike at.
    pub(crate) fn arm(&self, fault: DiskFault, operations: u64) {
        *self.state() = State { armed: Some((fault, operations)), struck: false };
    }

    /// Takes the fault back; whether it has struck.
    pub(crate) fn disarm(&self) -> bool {
        std::mem::take(&mut *self.state()).struck
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, operation: Operation) -> Fate {
        let mut state = self.state();
        let Some((fault, left)) = state.armed else { return Fate::Whole };
        if state.struck {
            return match fault {
                DiskFault::KilledWriter => Fate::Nothing(fault.error()),
                DiskFault::Full if fault.strikes(operation) => Fate::Nothing(fault.error()),
                _ => Fate::Whole,
            };
        }
        if !fault.strikes(operation) {
            return Fate::Whole;
        }
        if left > 0 {
            state.armed = Some((fault, left - 1));
            return Fate::Whole;
        }
        state.struck = true;
        Fate::Half(fault.error())
    }

    fn step<T>(&self, operation: Operation, whole: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.fate(operation) {
            Fate::Whole => whole(),
            Fate::Half(error) | Fate::Nothing(error) => Err(error),
        }
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::Create, || RealDisk.create_dir(path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.step(Operation::Create, || RealDisk.create(path))?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), file }))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::Sync, || RealDisk.sync_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Operation::Rename, || RealDisk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step(Operation::Remove, || RealDisk.remove_file(path))
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        match self.disk.fate(Operation::Append) {
            Fate::Whole => self.file.append(bytes),
            Fate::Half(error) => {
                // Some of the bytes may have been written.
                let _ = self.file.append(&bytes[..bytes.len() / 2]);
                Err(error)
            }
            Fate::Nothing(error) => Err(error),
        }
    }

    fn append_direct(&self, pieces: &[&[u8]]) -> io::Result<bool> {
        match self.disk.fate(Operation::Append) {
            Fate::Whole => self.file.append_direct(pieces),
            Fate::Half(error) => {
                // Some of the bytes may have been written.
                let _ = self.file.append_direct(&pieces[..pieces.len().div_ceil(2)]);
                Err(error)
            }
            Fate::Nothing(error) => Err(error),
        }
    }

    fn start_sync(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.start_sync(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step(Operation::Sync, || self.file.sync())
    }
}
