//! A file system that is soon full: a tmpfs in a mount namespace that only this test holds.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::skipped;

/// Mounts, says so, and holds the namespace until its input ends: with the test, however that ends.
const HOLD: &str = r#"mount -t tmpfs -o "size=$2,mode=700" ringmark-test "$1" && echo ready && exec cat >&2"#;

/// A small tmpfs. Everybody of this user reaches it through the process that holds it.
pub(crate) struct SmallDisk {
    holder: Child,
    path: PathBuf,
    _mounted_at: TempDir,
}

impl SmallDisk {
    /// One of `size` (as `mount` takes it); says that `test` is skipped where it cannot be had.
    pub(crate) fn new(test: &str, size: &str) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-c", HOLD, "sh"]).arg(at.path()).arg(size);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = match command.spawn() {
            Ok(holder) => holder,
            Err(error) => {
                skipped(test, &format!("`unshare` of util-linux cannot be run: {error}"));
                return None;
            }
        };
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said.trim() != "ready" {
            let mut why = String::new();
            holder.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            holder.wait().unwrap();
            skipped(test, &format!("no tmpfs of its own may be mounted here: {}", why.trim()));
            return None;
        }
        let path = Path::new("/proc").join(holder.id().to_string()).join("root");
        let path = path.join(at.path().strip_prefix("/").unwrap());
        Some(Self { holder, path, _mounted_at: at })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the file system up to the last `free` bytes; the file that does it is given back.
    pub(crate) fn fill(&self, free: u64) -> PathBuf {
        let path = self.path.join("filler");
        let mut file: File = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        while file.write_all(&[0xaa; 4096]).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length - free).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
