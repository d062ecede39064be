//! Memory that is handed over as it is: one file, which both processes map.
//!
//! On one host no page need be copied. The source has guest memory in one file of the kernel's (`memfd_create`), hands its
//! descriptor to the destination, and stops the guest; the destination has mapped the file by then, and runs it.
//!
//! So until the commit both sides have the same memory before them, and what each may do with it is the rule of the
//! [handover](crate::handover), applied to writing: who may not run the guest may not write its memory.
//!
//! * The destination writes nothing before [`Arrival::run`](crate::receive::Arrival::run): the source may still go on, and
//!   nobody would track such a write. A machine whose state cannot be loaded without writing memory (tables that an
//!   interrupt controller consumes) is copied.
//! * The source writes nothing after [`Departing::leave`](crate::send::Departing::leave), nor while it does not know who runs
//!   the guest.
//!
//! A source that has lost the link goes on at once, while the destination may still be loading the state that it was sent. What that
//! reads of memory may be newer than the state, and is not to be relied on; a machine that is loaded so never runs.
//!
//! Nothing is taken from the source's tracker, so nothing has to be given back if the guest stays.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, SealFlags};
use rustix::io::Errno;

/// `f_type` of what `memfd_create` makes of pages of the host's size.
const TMPFS: u64 = 0x0102_1994;

/// A file from another process that was found to be memory of the right size, and to stay so.
///
/// Its size cannot shrink any more, so that no page of a mapping is lost (`SIGBUS`), and it can be mapped to be written.
#[derive(Debug)]
pub struct MemoryFile(OwnedFd);

/// A file that is no memory to run a guest in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFileError {
    /// It is not of `memfd_create`, and so might be anything: a file on a disk, of a network, of a server that does not answer.
    #[error("the descriptor is of no memory file")]
    Kind,
    /// It holds huge pages.
    #[error("the memory file is of huge pages, not of pages of the host's size")]
    HugePages,
    /// It is not open for reading and writing.
    #[error("the memory file is not open for reading and writing")]
    Access,
    /// Nothing keeps its owner from taking pages away.
    #[error("the memory file is not sealed against shrinking")]
    Shrinks,
    /// It cannot be written any more.
    #[error("the memory file is sealed against writing")]
    Sealed,
    /// It is not as large as guest memory.
    #[error("the memory file has {found} bytes where guest memory has {expected}")]
    Size {
        /// Its size.
        found: u64,
        /// That of guest memory.
        expected: u64,
    },
    /// The kernel says nothing of it.
    #[error("the memory file cannot be looked at: {0}")]
    Kernel(String),
}

impl MemoryFile {
    /// Looks at `file`, which has to hold `bytes` bytes of guest memory.
    ///
    /// # Errors
    /// What is wrong with it; it is closed.
    pub fn check(file: OwnedFd, bytes: u64) -> Result<Self, MemoryFileError> {
        let kernel = |error: Errno| MemoryFileError::Kernel(error.to_string());
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|error| match error {
            // Also of a descriptor that is but a place (`O_PATH`).
            Errno::INVAL | Errno::BADF => MemoryFileError::Kind,
            other => kernel(other),
        })?;
        #[allow(
            clippy::cast_sign_loss,
            clippy::useless_conversion,
            reason = "its type is the architecture's"
        )]
        if rustix::fs::fstatfs(&file).map_err(kernel)?.f_type as u64 != TMPFS {
            return Err(MemoryFileError::HugePages);
        }
        if rustix::fs::fcntl_getfl(&file).map_err(kernel)? & OFlags::RWMODE != OFlags::RDWR {
            return Err(MemoryFileError::Access);
        }
        if !seals.contains(SealFlags::SHRINK) {
            return Err(MemoryFileError::Shrinks);
        }
        if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(MemoryFileError::Sealed);
        }
        // After the seal was seen: what is found here it has from now on at least.
        let found = u64::try_from(rustix::fs::fstat(&file).map_err(kernel)?.st_size).unwrap_or_default();
        if found == bytes { Ok(Self(file)) } else { Err(MemoryFileError::Size { found, expected: bytes }) }
    }

    /// The file.
    #[must_use]
    pub fn into_file(self) -> File {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, Mode, fcntl_add_seals, ftruncate, memfd_create, open};

    use super::*;

    const BYTES: u64 = 1 << 20;

    fn memory(bytes: u64, seals: SealFlags) -> OwnedFd {
        let file = memfd_create("memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn memory_of_the_right_size_that_stays_so() {
        for seals in [SealFlags::SHRINK, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL] {
            assert!(MemoryFile::check(memory(BYTES, seals), BYTES).is_ok());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let check = |file| MemoryFile::check(file, BYTES).unwrap_err();
        for found in [0, BYTES - 1, BYTES + 1, BYTES * 2] {
            let size = MemoryFileError::Size { found, expected: BYTES };
            assert_eq!(check(memory(found, SealFlags::SHRINK)), size);
        }
        assert_eq!(check(memory(BYTES, SealFlags::GROW)), MemoryFileError::Shrinks);
        assert_eq!(check(memory(BYTES, SealFlags::SHRINK | SealFlags::WRITE)), MemoryFileError::Sealed);
        assert_eq!(
            check(memory(BYTES, SealFlags::SHRINK | SealFlags::FUTURE_WRITE)),
            MemoryFileError::Sealed
        );

        let disk = tempfile::tempfile().unwrap();
        disk.set_len(BYTES).unwrap();
        assert!(matches!(check(disk.into()), MemoryFileError::Kind | MemoryFileError::Shrinks));
        assert_eq!(check(std::os::unix::net::UnixStream::pair().unwrap().0.into()), MemoryFileError::Kind);
        let (pipe, _end) = std::io::pipe().unwrap();
        assert_eq!(check(pipe.into()), MemoryFileError::Kind);

        let file = memory(BYTES, SealFlags::SHRINK);
        let again = |flags| {
            use std::os::fd::AsRawFd;
            open(format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty()).unwrap()
        };
        assert_eq!(check(again(OFlags::RDONLY)), MemoryFileError::Access);
        assert_eq!(check(again(OFlags::WRONLY)), MemoryFileError::Access);
        assert_eq!(check(again(OFlags::PATH)), MemoryFileError::Kind);
        assert!(MemoryFile::check(again(OFlags::RDWR), BYTES).is_ok());
    }
}
