//! A backend that fails, or stops its process, at a chosen operation: for any kind of place.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ringmark_image::{Backend, Claim, Claimed, Durability, Listed, Object, Upload};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// It is not done, and fails.
    Fails,
    /// It is done, and fails all the same: the answer was lost.
    AnswerLost,
    /// It and all later ones fail.
    GoneForGood,
}

/// Counts the operations that change something, and strikes at one of them.
#[derive(Debug)]
pub(crate) struct FaultyBackend {
    inner: Arc<dyn Backend>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    count: AtomicU64,
    at: u64,
    strike: Strike,
    /// Names of the operations so far.
    pub(crate) log: Mutex<Vec<String>>,
}

impl FaultyBackend {
    /// Strikes at operation `at`; the first is 0.
    pub(crate) fn new(inner: Arc<dyn Backend>, at: u64, strike: Strike) -> (Arc<Self>, Arc<Shared>) {
        let log = Mutex::default();
        let shared = Arc::new(Shared { count: AtomicU64::new(0), at, strike, log });
        (Arc::new(Self { inner, shared: Arc::clone(&shared) }), shared)
    }
}

impl Shared {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn step<T>(&self, name: String, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        self.log.lock().unwrap().push(name);
        let struck = || io::Error::other("struck");
        match self.strike {
            Strike::Fails if number == self.at => Err(struck()),
            Strike::AnswerLost if number == self.at => run().and_then(|_| Err(struck())),
            Strike::GoneForGood if number >= self.at => Err(struck()),
            _ => run(),
        }
    }
}

impl Backend for FaultyBackend {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn with_durability(self: Arc<Self>, _: Durability) -> Arc<dyn Backend> {
        self
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        self.shared.step(format!("put {key}"), || self.inner.put_if_absent(key, bytes))
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        let inner = self.shared.step(format!("upload {key}"), || self.inner.upload(key))?;
        Ok(Box::new(FaultyUpload { inner, shared: Arc::clone(&self.shared) }))
    }

    fn open(&self, key: &str) -> io::Result<Arc<dyn Object>> {
        self.inner.open(key)
    }

    fn sizes(&self, keys: &[String]) -> io::Result<Vec<Option<u64>>> {
        self.inner.sizes(keys)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(prefix)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.shared.step(format!("delete {key}"), || self.inner.delete(key))
    }

    fn claim(&self, writer: &str, bytes: &[u8]) -> io::Result<Box<dyn Claim>> {
        let inner = self.shared.step("claim".to_owned(), || self.inner.claim(writer, bytes))?;
        Ok(Box::new(FaultyClaim { inner, shared: Arc::clone(&self.shared) }))
    }

    fn claims(&self) -> io::Result<Vec<Claimed>> {
        self.inner.claims()
    }

    fn bury(&self, writer: &str) -> io::Result<()> {
        self.shared.step("bury".to_owned(), || self.inner.bury(writer))
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn Upload>,
    shared: Arc<Shared>,
}

impl Upload for FaultyUpload {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.shared.step("append".to_owned(), || self.inner.append(bytes))
    }

    fn commit(self: Box<Self>) -> io::Result<()> {
        let Self { inner, shared } = *self;
        shared.step("commit".to_owned(), || inner.commit())
    }
}

#[derive(Debug)]
struct FaultyClaim {
    inner: Box<dyn Claim>,
    shared: Arc<Shared>,
}

impl Claim for FaultyClaim {
    fn confirm(&self) -> io::Result<()> {
        self.shared.step("confirm".to_owned(), || self.inner.confirm())
    }

    fn release(self: Box<Self>) -> io::Result<()> {
        let Self { inner, shared } = *self;
        shared.step("release".to_owned(), || inner.release())
    }
}
