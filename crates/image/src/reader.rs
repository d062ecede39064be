//! Reading files whose length is known beforehand.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::ImageError;
use crate::header::damaged;

pub(crate) fn io_error(path: &Path, source: io::Error) -> ImageError {
    ImageError::Io { path: path.to_owned(), source }
}

/// Opens `path` and checks that it is a file of `len` bytes.
pub(crate) fn open(path: &Path, len: u64) -> Result<File, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(path, "the file is missing".to_owned()));
        }
        Err(e) => return Err(io_error(path, e)),
    };
    let found = file.metadata().map_err(|e| io_error(path, e))?;
    if !found.is_file() {
        return Err(damaged(path, "it is not a regular file".to_owned()));
    }
    if found.len() != len {
        return Err(damaged(path, format!("it has {} bytes instead of {len}", found.len())));
    }
    Ok(file)
}

/// All of the file `path`, which has `len` bytes with the BLAKE3 `hash`.
///
/// Memory is taken for a file that has been seen to have this length, and a length that memory cannot hold is an
/// error.
pub(crate) fn whole(path: &Path, len: u64, hash: &blake3::Hash) -> Result<Vec<u8>, ImageError> {
    let file = open(path, len)?;
    let mut bytes = Vec::new();
    let size = usize::try_from(len).map_err(|_| too_large(path, len))?;
    bytes.try_reserve_exact(size).map_err(|_| too_large(path, len))?;
    file.take(len).read_to_end(&mut bytes).map_err(|e| io_error(path, e))?;
    if bytes.len() != size || blake3::hash(&bytes) != *hash {
        return Err(damaged(path, "its BLAKE3 is not the one that the metadata records".to_owned()));
    }
    Ok(bytes)
}

fn too_large(path: &Path, len: u64) -> ImageError {
    damaged(path, format!("{len} bytes do not fit into memory"))
}

/// Reads `buf.len()` bytes at `offset`.
pub(crate) fn at(path: &Path, file: &File, buf: &mut [u8], offset: u64) -> Result<(), ImageError> {
    file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            damaged(path, format!("it ends before byte {offset} + {}", buf.len()))
        }
        _ => io_error(path, e),
    })
}

/// Feeds the file `path` of `len` bytes to BLAKE3 and compares the result with `hash`.
pub(crate) fn check_hash(path: &Path, len: u64, hash: &blake3::Hash) -> Result<(), ImageError> {
    const CHUNK: usize = 1 << 20;
    let file = open(path, len)?;
    let mut reader = file.take(len);
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; CHUNK];
    loop {
        match reader.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update_rayon(&buf[..n]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_error(path, e)),
        }
    }
    if hasher.count() != len || hasher.finalize() != *hash {
        return Err(damaged(path, "its BLAKE3 is not the one that the metadata records".to_owned()));
    }
    Ok(())
}
