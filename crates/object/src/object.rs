//! Reading an object.

use std::io;
use std::sync::Arc;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use ringmark_image::Object;

use crate::failure;
use crate::remote::Remote;

/// An object that was there when it was opened.
#[derive(Debug)]
pub(crate) struct OpenObject {
    remote: Arc<Remote>,
    path: Path,
}

impl OpenObject {
    pub(crate) fn new(remote: Arc<Remote>, path: Path) -> Self {
        Self { remote, path }
    }

    async fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        let read = || self.remote.service.get_range(&self.path, range.clone());
        let bytes = self.remote.again(&self.path, read).await.map_err(failure::of)?;
        if bytes.len() != buf.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} ends before byte {}", self.path, range.end),
            ));
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

impl Object for OpenObject {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        self.remote.wait(self.read(buf, offset))
    }
}
