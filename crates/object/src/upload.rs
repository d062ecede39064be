//! Large objects on their way to the service.

use std::io;
use std::mem;
use std::sync::Arc;

use object_store::PutPayload;
use object_store::multipart::PartId;
use object_store::path::Path;
use ringmark_image::Upload;
use tokio::task::JoinSet;

use crate::claim::Holder;
use crate::failure;
use crate::remote::Remote;

/// Bytes of a part. S3 wants at least 5 MiB and takes ten thousand parts.
const PART: usize = 8 << 20;

/// Parts on their way at a time.
const IN_FLIGHT: usize = 4;

/// An object under way: nothing but a buffer until the first part is full.
#[derive(Debug)]
pub(crate) struct ObjectUpload {
    remote: Arc<Remote>,
    path: Path,
    /// The claim of the writer it belongs to, if that is one of this process.
    holder: Option<Arc<Holder>>,
    buffer: Vec<u8>,
    length: u64,
    multipart: Option<Multipart>,
}

/// Parts sent and being sent.
#[derive(Debug)]
struct Multipart {
    id: String,
    begun: usize,
    sent: Vec<(usize, PartId)>,
    sending: JoinSet<io::Result<(usize, PartId)>>,
}

impl ObjectUpload {
    pub(crate) fn new(remote: Arc<Remote>, path: Path, holder: Option<Arc<Holder>>) -> Self {
        Self { remote, path, holder, buffer: Vec::new(), length: 0, multipart: None }
    }

    /// Sends the buffer as the next part, as soon as few enough are on their way.
    async fn send(&mut self) -> io::Result<()> {
        let part = PutPayload::from(mem::take(&mut self.buffer));
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => {
                let created = self.remote.service.create_multipart(&self.path).await;
                let id = created.map_err(failure::of)?;
                if let Some(holder) = &self.holder {
                    holder.note(&self.path, &id).await?;
                }
                none.insert(Multipart { id, begun: 0, sent: Vec::new(), sending: JoinSet::new() })
            }
        };
        multipart.settle(IN_FLIGHT - 1).await?;
        let index = multipart.begun;
        multipart.begun += 1;
        let (remote, path, id) = (Arc::clone(&self.remote), self.path.clone(), multipart.id.clone());
        multipart.sending.spawn(async move {
            let sent = remote.service.put_part(&path, &id, index, part).await;
            Ok((index, sent.map_err(failure::of)?))
        });
        Ok(())
    }

    async fn complete(&mut self) -> io::Result<()> {
        if self.multipart.is_none() {
            // The key is nobody else's: to put it again is harmless, and so it is retried in every case.
            return self.remote.put(&self.path, mem::take(&mut self.buffer)).await;
        }
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        multipart.settle(0).await?;
        multipart.sent.sort_unstable_by_key(|(index, _)| *index);
        let parts = mem::take(&mut multipart.sent).into_iter().map(|(_, part)| part).collect();
        let completed = self.remote.service.complete_multipart(&self.path, &multipart.id, parts).await;
        if let Err(error) = completed {
            // Of two tries, the answer to the first was lost, the second finds no such upload.
            let found = self.remote.head(&self.path).await;
            if !found.is_ok_and(|found| found.size == self.length) {
                return Err(failure::of(error));
            }
        }
        if let Some(holder) = &self.holder {
            holder.forget(&self.path);
        }
        self.multipart = None;
        Ok(())
    }
}

impl Multipart {
    /// Waits until at most `left` parts are on their way.
    async fn settle(&mut self, left: usize) -> io::Result<()> {
        while self.sending.len() > left {
            match self.sending.join_next().await {
                Some(sent) => self.sent.push(sent.map_err(io::Error::other)??),
                None => break,
            }
        }
        Ok(())
    }
}

impl Upload for ObjectUpload {
    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PART {
                let remote = Arc::clone(&self.remote);
                remote.wait(self.send())?;
            }
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> io::Result<()> {
        let remote = Arc::clone(&self.remote);
        remote.wait(self.complete())
    }
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        let (remote, path, holder) = (Arc::clone(&self.remote), self.path.clone(), self.holder.take());
        // Nobody waits for it: what is not aborted is noted in the claim, and aborted with that.
        self.remote.spawn(async move {
            multipart.sending.shutdown().await;
            match remote.service.abort_multipart(&path, &multipart.id).await {
                Ok(()) => {
                    if let Some(holder) = holder {
                        holder.forget(&path);
                    }
                }
                Err(error) => {
                    tracing::warn!(%path, error = failure::chain(&error), "an upload was not aborted")
                }
            }
        });
    }
}
