//! Making a directory a store, and telling whether one is.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::disk::Disk;
use super::{IMAGES, LOCK, PACKS, WRITERS};
use crate::OpenStoreError;
use crate::store::{MARKER, MARKER_CONTENTS as CONTENTS};

/// The marker before it has its name.
const NEW_MARKER: &str = "ringmark-store.part";

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenStoreError {
    let at = path.display().to_string();
    move |source| OpenStoreError::Io { doing, at, source }
}

/// Whether `dir` is a store of this version.
pub(super) fn check(dir: &Path) -> Result<(), OpenStoreError> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(OpenStoreError::NotADirectory(dir.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(OpenStoreError::Absent(dir.display().to_string()));
        }
        Err(e) => return Err(io_error("looking at", dir)(e)),
    }
    let marker = dir.join(MARKER);
    let file = match fs::File::open(&marker) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(unmarked(dir)),
        Err(e) => return Err(io_error("opening", &marker)(e)),
    };
    let mut found = Vec::new();
    file.take(CONTENTS.len() as u64 + 1).read_to_end(&mut found).map_err(io_error("reading", &marker))?;
    if found == CONTENTS.as_bytes() {
        return Ok(());
    }
    let marker = marker.display().to_string();
    Err(OpenStoreError::Version { marker, found: String::from_utf8_lossy(&found).trim_end().to_owned() })
}

/// What a directory without a marker is: empty, or somebody else's.
fn unmarked(dir: &Path) -> OpenStoreError {
    let looked = || -> io::Result<Option<String>> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            // What a founder that was killed leaves, and nothing in it.
            let ours = match name.to_str() {
                Some(IMAGES | PACKS | WRITERS) => {
                    entry.file_type()?.is_dir() && fs::read_dir(entry.path())?.next().is_none()
                }
                Some(LOCK | NEW_MARKER) => entry.file_type()?.is_file(),
                _ => false,
            };
            if !ours {
                return Ok(Some(name.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    };
    match looked() {
        Ok(None) => OpenStoreError::Empty(dir.display().to_string()),
        Ok(Some(found)) => OpenStoreError::Foreign { dir: dir.display().to_string(), found },
        Err(e) => io_error("listing", dir)(e),
    }
}

/// Makes the empty or absent directory `dir` a store, durably. Two founders at once do not harm each other, and one
/// that was killed can be followed by another: the marker comes last.
pub(super) fn found(dir: &Path, disk: &dyn Disk) -> Result<(), OpenStoreError> {
    let absent: Vec<&Path> =
        dir.ancestors().take_while(|a| !a.as_os_str().is_empty() && !a.exists()).collect();
    // Guest memory holds secrets: what is made here is the owner's alone.
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("creating", dir))?;
    let exists = |e: io::Error| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) };
    for name in [IMAGES, PACKS, WRITERS] {
        let path = dir.join(name);
        disk.create_dir(&path).or_else(exists).map_err(io_error("creating", &path))?;
    }
    let lock = dir.join(LOCK);
    disk.create(&lock).map(drop).or_else(exists).map_err(io_error("creating", &lock))?;
    let held = fs::OpenOptions::new().write(true).open(&lock).map_err(io_error("opening", &lock))?;
    held.lock().map_err(io_error("locking", &lock))?;
    let marker = dir.join(MARKER);
    if marker.exists() {
        return check(dir);
    }
    let new = dir.join(NEW_MARKER);
    match disk.remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("removing", &new)(e)),
        _ => {}
    }
    let written = || -> io::Result<()> {
        let file = disk.create(&new)?;
        file.append(CONTENTS.as_bytes())?;
        file.sync()
    };
    written().map_err(io_error("writing", &new))?;
    disk.rename(&new, &marker).map_err(io_error("creating", &marker))?;
    disk.sync_dir(dir).map_err(io_error("fsync of", dir))?;
    for made in absent {
        let parent = made.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(parent).map_err(io_error("fsync of", parent))?;
    }
    Ok(())
}
