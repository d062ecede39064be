//! One bucket, and the threads that talk to it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::runtime::{Handle, Runtime};

use crate::Limits;
use crate::failure;

/// How often a request is made whose answer broke off or never came.
const TRIES: u32 = 5;

/// How long to wait before the second try; the third waits twice as long, and so on.
const PAUSE: Duration = Duration::from_millis(50);

/// What a service of `object_store` offers; all of this crate's do.
pub(crate) trait Service: ObjectStore + MultipartStore {}

impl<S: ObjectStore + MultipartStore> Service for S {}

/// A prefix of a bucket.
pub(crate) struct Remote {
    pub(crate) location: String,
    pub(crate) service: Box<dyn Service>,
    pub(crate) prefix: Path,
    pub(crate) limits: Limits,
    threads: Handle,
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("location", &self.location).finish_non_exhaustive()
    }
}

impl Remote {
    pub(crate) fn new(
        location: String,
        service: Box<dyn Service>,
        prefix: Path,
        limits: Limits,
    ) -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("object-store")
            .enable_all()
            .build()?;
        let threads = runtime.handle().clone();
        Ok(Arc::new(Self { location, service, prefix, limits, threads, runtime: Some(runtime) }))
    }

    /// Waits for `work`; never called from one of the runtime's own threads.
    pub(crate) fn wait<F: Future>(&self, work: F) -> F::Output {
        self.threads.block_on(work)
    }

    /// Lets `work` run on its own.
    pub(crate) fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.threads.spawn(work)
    }

    /// The object of `key`.
    pub(crate) fn path(&self, key: &str) -> Path {
        let parts = self.prefix.parts();
        Path::from_iter(parts.chain(key.split('/').filter(|part| !part.is_empty()).map(Into::into)))
    }

    /// The key of an object; `None` for one that is not this store's.
    pub(crate) fn key(&self, path: &Path) -> Option<String> {
        let parts: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        (!parts.is_empty()).then(|| parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/"))
    }

    /// Does `work` again where it failed in a way that may pass and that is not retried below: an answer that broke off,
    /// or never came to a request that `object_store` takes for unsafe to repeat. None of those here is.
    pub(crate) async fn again<T, F>(&self, path: &Path, work: impl Fn() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let begun = Instant::now();
        let mut tried = 1;
        loop {
            match work().await {
                Err(error @ object_store::Error::Generic { .. })
                    if tried < TRIES && begun.elapsed() < self.limits.retries =>
                {
                    tracing::warn!(%path, tried, error = failure::chain(&error), "trying again");
                    tokio::time::sleep(PAUSE * tried).await;
                    tried += 1;
                }
                result => return result,
            }
        }
    }

    /// Puts an object over whatever is there.
    pub(crate) async fn put(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let payload = PutPayload::from(bytes);
        let put = self.again(path, || self.service.put(path, payload.clone())).await;
        put.map(drop).map_err(failure::of)
    }

    /// The whole of an object.
    pub(crate) async fn get(&self, path: &Path) -> object_store::Result<Bytes> {
        self.again(path, || async { self.service.get(path).await?.bytes().await }).await
    }

    /// What the service says of an object.
    pub(crate) async fn head(&self, path: &Path) -> object_store::Result<ObjectMeta> {
        self.again(path, || self.service.head(path)).await
    }

    /// All objects under `path`.
    pub(crate) async fn list(&self, path: &Path) -> io::Result<Vec<ObjectMeta>> {
        self.again(path, || self.service.list(Some(path)).try_collect()).await.map_err(failure::of)
    }

    /// Deletes an object, if there is one.
    pub(crate) async fn delete(&self, path: &Path) -> io::Result<()> {
        match self.again(path, || self.service.delete(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure::of(error)),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed on a thread of some other runtime, and nothing here needs it.
            runtime.shutdown_background();
        }
    }
}
