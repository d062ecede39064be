//! A disk that fails, or kills its process, at a chosen operation.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ringmark_image::{Disk, DiskFile, RealDisk};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and every later one works.
    Once(rustix::io::Errno),
    /// It and all later ones fail.
    Forever(rustix::io::Errno),
    /// The process dies before it.
    KillBefore,
    /// The process dies when half of it is done, if it has halves, else after it.
    KillWithin,
}

/// Counts the operations that change something, and strikes at one of them.
#[derive(Debug)]
pub(crate) struct FaultyDisk {
    count: AtomicU64,
    at: u64,
    fault: Fault,
    /// Whether it is a disk without direct writes.
    refuses_direct: bool,
    /// Names of the operations so far.
    pub(crate) log: Mutex<Vec<String>>,
}

impl FaultyDisk {
    /// Strikes at operation `at`; the first is 0.
    pub(crate) fn new(at: u64, fault: Fault) -> Arc<Self> {
        Arc::new(Self::of(at, fault, false))
    }

    /// As [`new`](Self::new), without direct writes.
    pub(crate) fn without_direct_writes(at: u64, fault: Fault) -> Arc<Self> {
        Arc::new(Self::of(at, fault, true))
    }

    const fn of(at: u64, fault: Fault, refuses_direct: bool) -> Self {
        Self { count: AtomicU64::new(0), at, fault, refuses_direct, log: Mutex::new(Vec::new()) }
    }

    /// Never strikes.
    pub(crate) fn harmless() -> Arc<Self> {
        Self::new(u64::MAX, Fault::KillBefore)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn step<T>(
        &self,
        name: &str,
        path: &Path,
        half: impl FnOnce(),
        whole: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        self.log.lock().unwrap().push(format!("{name} {}", path.file_name().unwrap_or_default().display()));
        match self.fault {
            Fault::Once(e) if number == self.at => Err(e.into()),
            Fault::Forever(e) if number >= self.at => Err(e.into()),
            Fault::KillBefore if number == self.at => die(),
            Fault::KillWithin if number == self.at => {
                half();
                if !name.starts_with("append") {
                    drop(whole());
                }
                die()
            }
            _ => whole(),
        }
    }
}

/// The first half of what is in `pieces`, in whole blocks.
fn halves<'a>(pieces: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut left = pieces.iter().map(|piece| piece.len()).sum::<usize>() / 8192 * 4096;
    let half = |piece: &&'a [u8]| {
        let now = &piece[..piece.len().min(left)];
        left -= now.len();
        now
    };
    pieces.iter().map(half).filter(|piece| !piece.is_empty()).collect()
}

fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

/// `Arc<FaultyDisk>` cannot be the disk itself: its files need to hold it.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<FaultyDisk>);

#[derive(Debug)]
struct FaultyFile {
    disk: Arc<FaultyDisk>,
    path: std::path::PathBuf,
    file: Arc<dyn DiskFile>,
}

impl Disk for Handle {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.step("create_dir", path, || {}, || RealDisk.create_dir(path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.step("create", path, || {}, || RealDisk.create(path))?;
        Ok(Arc::new(FaultyFile { disk: Arc::clone(&self.0), path: path.to_owned(), file }))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.step("sync_dir", path, || {}, || RealDisk.sync_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step("rename", to, || {}, || RealDisk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.step("remove_file", path, || {}, || RealDisk.remove_file(path))
    }
}

impl DiskFile for FaultyFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let half = || drop(self.file.append(&bytes[..bytes.len() / 2]));
        self.disk.step("append", &self.path, half, || self.file.append(bytes))
    }

    fn append_direct(&self, pieces: &[&[u8]]) -> io::Result<bool> {
        if self.disk.refuses_direct {
            return Ok(false);
        }
        let half = || drop(self.file.append_direct(&halves(pieces)));
        self.disk.step("append_direct", &self.path, half, || self.file.append_direct(pieces))
    }

    fn start_sync(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.step("start_sync", &self.path, || {}, || self.file.start_sync(offset, len))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step("sync", &self.path, || {}, || self.file.sync())
    }
}
