//! Writes that go from memory to the disk and leave the page cache out.

use std::fs::File;
use std::io::{self, IoSlice, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Appends all of `pieces`, or none of them if the file system has no direct writes (`false`).
pub(super) fn append(mut file: &File, pieces: &[&[u8]]) -> io::Result<bool> {
    let flags = fcntl_getfl(file)?;
    match fcntl_setfl(file, flags | OFlags::DIRECT) {
        Err(e) if is_refusal(e) => return Ok(false),
        other => other?,
    }
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let result = rustix::io::retry_on_intr(|| rustix::io::writev(file, &slices));
    fcntl_setfl(file, flags)?;
    let mut written = match result {
        Err(e) if is_refusal(e) => return Ok(false),
        other => other?,
    };
    // A write ends early where the disk or a limit does, and perhaps within a block: the rest, or what is in its way, is
    // for a write that takes any length.
    for piece in pieces {
        let skip = written.min(piece.len());
        file.write_all(&piece[skip..])?;
        written -= skip;
    }
    Ok(true)
}

/// What file systems say that have no direct writes, or demand more of them.
fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::OPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::{Aligned, BLOCK};

    fn blocks(count: usize, phase: usize) -> Aligned {
        let mut blocks = Aligned::new(count * BLOCK, phase);
        blocks.extend(&(0..count * BLOCK).map(|i| (i % 251).to_le_bytes()[0]).collect::<Vec<u8>>());
        blocks
    }

    #[test]
    fn pieces_come_one_behind_the_other_and_plain_writes_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = File::create(&path).unwrap();
        let (a, b) = (blocks(1, 0), blocks(300, 0));
        if !append(&file, &[&a, &b]).unwrap() {
            eprintln!("SKIPPED pieces_come_one_behind_the_other: no direct writes at {}", path.display());
            return;
        }
        file.write_all(b"the end").unwrap();
        assert!(std::fs::read(path).unwrap() == [&*a, &*b, b"the end"].concat());
    }

    /// Where the kernel demands more than it was given it says so before it has written anything.
    #[test]
    fn what_is_refused_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        let odd = blocks(2, 1);
        let taken = append(&file, &[&odd[..BLOCK + 7]]).unwrap();
        let found = std::fs::read(&path).unwrap();
        assert!(found == odd[..if taken { BLOCK + 7 } else { 0 }]);
        // The descriptor takes plain writes as before.
        (&file).write_all(&odd[..7]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), found.len() as u64 + 7);
    }

    #[test]
    fn a_disk_without_room_is_no_refusal() {
        let Ok(full) = File::options().write(true).open("/dev/full") else { return };
        match append(&full, &[&blocks(1, 0)]) {
            Ok(false) => {}
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::StorageFull),
            Ok(true) => panic!("it went into a full disk"),
        }
    }
}
