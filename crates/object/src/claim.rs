//! The claims of writers: objects that are renewed while their writer lives.
//!
//! Time is told by two clocks, each for what it alone can tell. Whether a claim of somebody else has lapsed is read off
//! the service's clock: the time at which it stored the claim, against that at which it stores an object of the
//! reader's. Whether an own claim can have lapsed is read off this host's boot-time clock, which runs on in suspend:
//! from the beginning of one renewal that succeeded to the end of the next.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use object_store::ObjectMeta;
use object_store::path::Path;
use ringmark_image::{Claim, Claimed};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::failure;
use crate::remote::Remote;

/// Where claims are.
const PREFIX: &str = "writers";

/// The object whose time is the service's now.
const CLOCK: &str = "clock/now";

/// A claim of more bytes than this is none: an identity and a few uploads are some hundred.
const MOST_BYTES: u64 = 1 << 20;

/// Services tell the time of an object in whole seconds.
const RESOLUTION: Duration = Duration::from_secs(2);

/// The key of a writer's claim.
pub(crate) fn key(writer: &str) -> String {
    format!("{PREFIX}/{writer}")
}

/// What a claim's object says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The writer's own words.
    bytes: Vec<u8>,
    /// Multipart uploads that have begun.
    uploads: Vec<Noted>,
    /// The writer gave up: it counts as dead at once.
    ended: bool,
}

/// A multipart upload under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Noted {
    path: String,
    id: String,
}

/// The claims of this process.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    holders: Mutex<Vec<Weak<Holder>>>,
}

/// A claim of this process.
#[derive(Debug)]
pub(crate) struct Holder {
    remote: Arc<Remote>,
    writer: String,
    record: Mutex<Record>,
    /// Held while the claim is put, so that what is put last is what was said last.
    standing: tokio::sync::Mutex<Standing>,
}

/// How an own claim stands.
#[derive(Debug)]
struct Standing {
    /// When the last renewal that succeeded was begun, by the boot-time clock.
    renewed: Duration,
    /// There was a time at which others could take the writer for dead.
    lapsed: bool,
    /// Nothing is put any more.
    over: bool,
}

/// Time since the host was started, suspend included.
fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes here guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claims {
    pub(crate) fn claim(
        &self,
        remote: &Arc<Remote>,
        writer: &str,
        bytes: &[u8],
    ) -> io::Result<Box<dyn Claim>> {
        let record = Record { bytes: bytes.to_vec(), ..Record::default() };
        let standing = Standing { renewed: boot_time(), lapsed: false, over: false };
        let holder = Arc::new(Holder {
            remote: Arc::clone(remote),
            writer: writer.to_owned(),
            record: Mutex::new(record),
            standing: standing.into(),
        });
        remote.wait(holder.renew())?;
        let renewing = Arc::clone(&holder);
        let beat = remote.limits.beat();
        let task = remote.spawn(async move {
            loop {
                tokio::time::sleep(beat).await;
                if let Err(error) = renewing.renew().await {
                    tracing::warn!(writer = renewing.writer, %error, "a writer's claim was not renewed");
                }
            }
        });
        let mut holders = lock(&self.holders);
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(Arc::downgrade(&holder));
        Ok(Box::new(HeldClaim { holder, renewal: task.abort_handle(), released: false }))
    }

    /// The claim of the writer that uploads `key`.
    pub(crate) fn of_key(&self, key: &str) -> Option<Arc<Holder>> {
        let name = key.rsplit('/').next().unwrap_or_default();
        let begins = |holder: &Arc<Holder>| {
            name.strip_prefix(&holder.writer).is_some_and(|rest| rest.starts_with('-') || rest.is_empty())
        };
        lock(&self.holders).iter().filter_map(Weak::upgrade).find(begins)
    }

    fn of_writer(&self, writer: &str) -> Option<Arc<Holder>> {
        lock(&self.holders).iter().filter_map(Weak::upgrade).find(|holder| holder.writer == writer)
    }
}

impl Holder {
    /// Puts the claim as it is, and so begins its lease anew.
    async fn renew(&self) -> io::Result<()> {
        let mut standing = self.standing.lock().await;
        self.put(&mut standing).await
    }

    async fn put(&self, standing: &mut Standing) -> io::Result<()> {
        if standing.over {
            return Err(io::Error::other("the claim was released"));
        }
        let begun = boot_time();
        let record = serde_json::to_vec(&*lock(&self.record))?;
        self.remote.put(&self.remote.path(&key(&self.writer)), record).await?;
        // Until the renewal arrived, the claim was as old as the one before.
        standing.lapsed |= boot_time().saturating_sub(standing.renewed) >= self.remote.limits.lease;
        standing.renewed = begun;
        Ok(())
    }

    /// Says in the claim that an upload has begun, so that it is aborted with the writer.
    pub(crate) async fn note(&self, path: &Path, id: &str) -> io::Result<()> {
        lock(&self.record).uploads.push(Noted { path: path.to_string(), id: id.to_owned() });
        self.renew().await
    }

    /// The upload is no more. The claim says so with its next renewal; to abort a finished upload does nothing.
    pub(crate) fn forget(&self, path: &Path) {
        lock(&self.record).uploads.retain(|noted| noted.path != path.as_ref());
    }

    async fn confirm(&self) -> io::Result<()> {
        let mut standing = self.standing.lock().await;
        let half = self.remote.limits.half_lease();
        if boot_time().saturating_sub(standing.renewed) >= half / 2 {
            self.put(&mut standing).await?;
        }
        if standing.lapsed || boot_time().saturating_sub(standing.renewed) >= half {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "writer {} could not renew its claim in time, and others may have removed what it wrote",
                    self.writer
                ),
            ));
        }
        Ok(())
    }

    /// Stops renewing; with `last`, after a last word.
    async fn end(&self, ended: bool) -> io::Result<()> {
        let mut standing = self.standing.lock().await;
        let result = if ended {
            lock(&self.record).ended = true;
            self.put(&mut standing).await
        } else {
            self.remote.delete(&self.remote.path(&key(&self.writer))).await
        };
        standing.over = true;
        result
    }
}

/// The claim as its writer holds it.
#[derive(Debug)]
struct HeldClaim {
    holder: Arc<Holder>,
    renewal: AbortHandle,
    released: bool,
}

impl Claim for HeldClaim {
    fn confirm(&self) -> io::Result<()> {
        let limit = self.holder.remote.limits.half_lease();
        self.holder.remote.wait(failure::within(limit, "renewing a writer's claim", self.holder.confirm()))
    }

    fn release(mut self: Box<Self>) -> io::Result<()> {
        self.renewal.abort();
        self.released = true;
        let result = self.holder.remote.wait(self.holder.end(false));
        if result.is_err() {
            self.released = false;
        }
        result
    }
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        self.renewal.abort();
        let holder = Arc::clone(&self.holder);
        // Nobody waits for it: unsaid, the claim lapses with its lease.
        self.holder.remote.spawn(async move { holder.end(true).await });
    }
}

/// All claims in the bucket, with what is known of their writers. Aborts the uploads of dead ones.
pub(crate) async fn found(remote: &Remote, own: &Claims) -> io::Result<Vec<Claimed>> {
    let objects = remote.list(&remote.path(PREFIX)).await?;
    let mut claims = Vec::new();
    let mut now = None;
    for object in objects {
        let Some(writer) = object.location.filename().map(ToOwned::to_owned) else { continue };
        if let Some(holder) = own.of_writer(&writer) {
            let bytes = lock(&holder.record).bytes.clone();
            claims.push(Claimed { writer, bytes, alive: true });
            continue;
        }
        let record = match read(remote, &object).await {
            Ok(record) => record,
            // Released since the listing.
            Err(object_store::Error::NotFound { .. }) => continue,
            Err(error) => return Err(failure::of(error)),
        };
        let stored = object.last_modified;
        let now = match now {
            Some(now) => now,
            None => *now.insert(just_put(remote).await?.last_modified),
        };
        // Negative for a claim that was renewed after the listing.
        let age = (now - stored).to_std().unwrap_or_default();
        let alive = !record.ended && age <= remote.limits.lease + RESOLUTION;
        if !alive {
            abort(remote, &record.uploads).await;
        }
        claims.push(Claimed { writer, bytes: record.bytes, alive });
    }
    Ok(claims)
}

/// What a claim says; nothing if it cannot be understood.
async fn read(remote: &Remote, object: &ObjectMeta) -> object_store::Result<Record> {
    if object.size > MOST_BYTES {
        return Ok(Record::default());
    }
    let bytes = remote.get(&object.location).await?;
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// An object put at this moment, which has the time of the service's clock.
async fn just_put(remote: &Remote) -> io::Result<ObjectMeta> {
    let path = remote.path(CLOCK);
    remote.put(&path, Vec::new()).await?;
    remote.head(&path).await.map_err(failure::of)
}

async fn abort(remote: &Remote, uploads: &[Noted]) {
    for Noted { path, id } in uploads {
        let Ok(path) = Path::parse(path) else { continue };
        // A claim is no authority over objects of anybody else.
        if remote.key(&path).is_none() {
            continue;
        }
        match remote.service.abort_multipart(&path, id).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%path, error = failure::chain(&error), "a dead writer's upload was not aborted");
            }
        }
    }
}
