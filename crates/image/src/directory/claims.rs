//! Claims of writers: files that are locked as long as their writer lives.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Directory, IMAGES, PACKS, PART, WRITERS};
use crate::backend::{Claim, Claimed};

/// The most bytes of a claim that are read.
const MAX_LEN: u64 = 4096;

#[derive(Debug)]
pub(super) struct FileClaim {
    path: PathBuf,
    file: File,
}

impl Claim for FileClaim {
    fn confirm(&self) -> io::Result<()> {
        // The lock cannot be lost, but somebody may have removed the file by hand, and the packs with it.
        self.path.try_exists()?.then_some(()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the claim was removed while the writer was at work")
        })
    }

    fn release(self: Box<Self>) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.file.unlock()
    }
}

pub(super) fn claim(directory: &Directory, writer: &str, bytes: &[u8]) -> io::Result<FileClaim> {
    let path = directory.dir.join(WRITERS).join(writer);
    // Nobody looks for leftovers before the new file is locked.
    let _lock = directory.lock()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let claimed = file.lock().and_then(|()| file.write_all(bytes));
    match claimed {
        Ok(()) => Ok(FileClaim { path, file }),
        Err(e) => {
            let _ = fs::remove_file(&path);
            Err(e)
        }
    }
}

pub(super) fn all(directory: &Directory) -> io::Result<Vec<Claimed>> {
    let _lock = directory.lock()?;
    let mut claims = Vec::new();
    for entry in fs::read_dir(directory.dir.join(WRITERS))? {
        let entry = entry?;
        let file = match OpenOptions::new().read(true).write(true).open(entry.path()) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let alive = is_locked(&file)?;
        let mut bytes = Vec::new();
        (&file).take(MAX_LEN).read_to_end(&mut bytes)?;
        claims.push(Claimed { writer: entry.file_name().to_string_lossy().into_owned(), bytes, alive });
    }
    let alive: BTreeSet<&str> = claims.iter().filter(|c| c.alive).map(|c| c.writer.as_str()).collect();
    // The lock of the store is held by whoever makes metadata visible: an unfinished file of it is nobody's.
    remove_parts(directory, &directory.dir.join(IMAGES), |_| true)?;
    remove_parts(directory, &directory.dir.join(PACKS), |name| {
        name.split_once('-').is_none_or(|(writer, _)| !alive.contains(writer))
    })?;
    Ok(claims)
}

pub(super) fn bury(directory: &Directory, writer: &str) -> io::Result<()> {
    let path = directory.dir.join(WRITERS).join(writer);
    let _lock = directory.lock()?;
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_locked(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Removes the unfinished files in `dir` whose name `dead` says that nobody writes them.
fn remove_parts(directory: &Directory, dir: &Path, dead: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| n.ends_with(PART)) else { continue };
        if dead(name) && entry.file_type()?.is_file() {
            match directory.disk.remove_file(&entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => tracing::info!(name, "removed what a killed writer left"),
            }
        }
    }
    Ok(())
}
