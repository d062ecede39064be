//! A store's objects in a bucket.

use std::io;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{PutMode, PutPayload};
use ringmark_image::{Backend, Claim, Claimed, Durability, Listed, Object, Upload};

use crate::claim::{self, Claims};
use crate::failure;
use crate::object::OpenObject;
use crate::remote::Remote;
use crate::upload::ObjectUpload;

/// Requests at a time: a service answers one in tens of milliseconds, and many at once.
const READERS: usize = 16;

/// What a service delivers in the time that it takes to answer.
const READ_AHEAD: usize = 1 << 20;

/// A prefix of a bucket as the objects of a store.
#[derive(Debug)]
pub(crate) struct ObjectBackend {
    remote: Arc<Remote>,
    /// The claims of this process.
    claims: Claims,
}

impl ObjectBackend {
    pub(crate) fn new(remote: Arc<Remote>) -> Self {
        Self { remote, claims: Claims::default() }
    }

    /// Puts if absent. What an error leaves open is decided by a look: the put is done if the object is there with
    /// these bytes, and begun anew if there is none.
    async fn create(&self, path: &Path, bytes: &[u8]) -> object_store::Result<bool> {
        let payload = PutPayload::from(bytes.to_vec());
        let try_once = || async {
            let put = self.remote.service.put_opts(path, payload.clone(), PutMode::Create.into()).await;
            let Err(error) = put else { return Ok(true) };
            match (&error, self.remote.get(path).await) {
                (_, Ok(found)) if found == bytes => Ok(true),
                (object_store::Error::AlreadyExists { .. }, Ok(_)) => Ok(false),
                _ => Err(error),
            }
        };
        self.remote.again(path, try_once).await
    }

    async fn size(&self, key: &str) -> io::Result<Option<u64>> {
        match self.remote.head(&self.remote.path(key)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure::of(error)),
        }
    }
}

impl Backend for ObjectBackend {
    fn location(&self) -> &str {
        &self.remote.location
    }

    fn with_durability(self: Arc<Self>, _durability: Durability) -> Arc<dyn Backend> {
        self
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        let path = self.remote.path(key);
        // An answer after half a lease is too late: the writer's packs may be somebody's leftovers by then.
        let limit = self.remote.limits.half_lease();
        let what = format!("putting {path}");
        self.remote.wait(failure::within(limit, &what, async {
            self.create(&path, bytes).await.map_err(failure::of)
        }))
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        let note = self.claims.of_key(key);
        Ok(Box::new(ObjectUpload::new(Arc::clone(&self.remote), self.remote.path(key), note)))
    }

    fn open(&self, key: &str) -> io::Result<Arc<dyn Object>> {
        let path = self.remote.path(key);
        self.remote.wait(self.remote.head(&path)).map_err(failure::of)?;
        Ok(Arc::new(OpenObject::new(Arc::clone(&self.remote), path)))
    }

    fn sizes(&self, keys: &[String]) -> io::Result<Vec<Option<u64>>> {
        let sizes = futures_util::stream::iter(keys).map(|key| self.size(key)).buffered(READERS);
        self.remote.wait(sizes.try_collect())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let found = self.remote.wait(self.remote.list(&self.remote.path(prefix)))?;
        let listed = found
            .into_iter()
            .filter_map(|object| Some(Listed { key: self.remote.key(&object.location)?, len: object.size }));
        Ok(listed.collect())
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.remote.wait(self.remote.delete(&self.remote.path(key)))
    }

    fn claim(&self, writer: &str, bytes: &[u8]) -> io::Result<Box<dyn Claim>> {
        self.claims.claim(&self.remote, writer, bytes)
    }

    fn claims(&self) -> io::Result<Vec<Claimed>> {
        self.remote.wait(claim::found(&self.remote, &self.claims))
    }

    fn bury(&self, writer: &str) -> io::Result<()> {
        self.delete(&claim::key(writer))
    }

    fn readers(&self) -> usize {
        READERS
    }

    fn read_ahead(&self) -> usize {
        READ_AHEAD
    }
}
