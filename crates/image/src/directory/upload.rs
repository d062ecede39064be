//! A file on its way to its name.

use std::io;
use std::path::PathBuf;

use ringmark_dirty::mutant::{self, Mutant};

use super::stream::Stream;
use super::{Directory, PART};
use crate::backend::Upload;

#[derive(Debug)]
pub(super) struct FileUpload {
    directory: Directory,
    /// The file's final name.
    path: PathBuf,
    part: PathBuf,
    stream: Stream,
    committed: bool,
}

impl FileUpload {
    pub(super) fn begin(directory: Directory, path: PathBuf) -> io::Result<Self> {
        let mut part = path.clone().into_os_string();
        part.push(PART);
        let part = PathBuf::from(part);
        let file = directory.disk.create(&part)?;
        let stream = Stream::new(file, directory.durability);
        Ok(Self { directory, path, part, stream, committed: false })
    }
}

impl Upload for FileUpload {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.append(bytes)
    }

    fn commit(mut self: Box<Self>) -> io::Result<()> {
        let early = mutant::active(Mutant::VisibleBeforeDurable);
        if early {
            self.directory.disk.rename(&self.part, &self.path)?;
        }
        self.stream.finish()?;
        let synced = self.stream.sync();
        if !mutant::active(Mutant::SyncErrorIgnored) {
            synced?;
        }
        if !early {
            self.directory.disk.rename(&self.part, &self.path)?;
        }
        // Whatever happens from here on, the file has its final name.
        self.committed = true;
        self.directory.sync_dir_of(&self.path)
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.directory.disk.remove_file(&self.part)
            && error.kind() != io::ErrorKind::NotFound
        {
            let part = self.part.display();
            tracing::warn!(%part, %error, "an unfinished file is left; a later writer removes it");
        }
    }
}
