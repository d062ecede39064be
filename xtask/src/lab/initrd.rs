//! The initial file system, in the one format that every kernel unpacks ("newc" of cpio, uncompressed).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Writes an initrd whose init is `program`, with `modules` in `/modules` in their order and `tests` in `/tests` by their
/// names.
pub(super) fn write(
    path: &Path,
    program: &Path,
    modules: &[PathBuf],
    tests: &[(String, PathBuf)],
) -> Result<()> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let mut archive = Archive::default();
    archive.add("init", PROGRAM, &read(program)?)?;
    archive.add("modules", DIRECTORY, &[])?;
    for (number, module) in modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{number:02}-{name}"), FILE, &read(module)?)?;
    }
    archive.add("tests", DIRECTORY, &[])?;
    for (name, test) in tests {
        archive.add(&format!("tests/{name}"), PROGRAM, &read(test)?)?;
    }
    fs::write(path, archive.finish()?).with_context(|| format!("cannot write {}", path.display()))
}

#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.files += 1;
        let length = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        // Inode, mode, owner, group, links, time, size, device (2), node (2), length of the name with its NUL, sum.
        let header =
            [self.files, mode, 0, 0, 1, 0, length(content.len())?, 0, 0, 0, 0, length(name.len() + 1)?, 0];
        self.bytes.write_all(b"070701")?;
        for field in header {
            write!(self.bytes, "{field:08X}")?;
        }
        self.bytes.write_all(name.as_bytes())?;
        self.bytes.push(0);
        self.align();
        self.bytes.write_all(content)?;
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_contents_are_aligned() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"12345").expect("room");
        let bytes = archive.finish().expect("room");
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ED", "the mode");
        assert_eq!(&bytes[54..62], b"00000005", "the size");
        assert_eq!(&bytes[94..102], b"00000005", "the name's length");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..124], b"12345\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.len().is_multiple_of(4));
    }
}
