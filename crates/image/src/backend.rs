//! Where the bytes of a store are: the seam between a store and a disk or an object store.
//!
//! A store is a set of *objects*, each a name (its *key*) and bytes that never change. Keys are two components of
//! `a-z`, `0-9`, `-` and `.`, divided by `/` (`packs/1f-0`); only the marker of a store has one.
//!
//! # The rule of durability
//!
//! What [`put_if_absent`](Backend::put_if_absent) and [`Upload::commit`] have answered with `Ok` survives the death of
//! the process and a power failure, unless the store was opened with [`Durability::None`]. A writer commits every pack
//! before it puts the metadata that names them, so that an image is visible only when all of it is durable. After an
//! `Err` the object may exist or not: nobody relies on either.
//!
//! # Who may remove what
//!
//! Objects of a writer that has not finished are named by no metadata. They may be removed when the writer is
//! *certainly* dead, which only the backend can tell: see [`claim`](Backend::claim).

use std::fmt;
use std::io;
use std::sync::Arc;

/// Whether what is reported as stored survives a power failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It does.
    #[default]
    Full,
    /// It survives the death of the process, but perhaps not that of the system: nothing is synced to the disk. An
    /// object store makes no difference.
    None,
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub len: u64,
}

/// What a claim of a writer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The writer's name.
    pub writer: String,
    /// What the writer wrote into it; empty if that cannot be read.
    pub bytes: Vec<u8>,
    /// Whether the writer may still be at work. `false` only if it is certainly dead.
    pub alive: bool,
}

/// The objects of a store. All methods may be called by any number of threads and processes at once.
///
/// Errors are those of the system, by their kind: [`NotFound`](io::ErrorKind::NotFound) where there is no such object,
/// [`StorageFull`](io::ErrorKind::StorageFull) and its kin where there is no room.
pub trait Backend: Send + Sync + fmt::Debug {
    /// A path or URL for messages, which opens the same store again.
    fn location(&self) -> &str;

    /// The same objects under another promise of durability.
    fn with_durability(self: Arc<Self>, durability: Durability) -> Arc<dyn Backend>;

    /// Puts a small object in one step: nobody sees a part of it. `false` if there is one of this key already, which
    /// stays as it is.
    ///
    /// # Errors
    /// The object may exist or not.
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool>;

    /// Begins a large object, in bounded memory. It exists from its commit on, and not before. The caller makes the
    /// key up at random, so that no two uploads have one.
    ///
    /// # Errors
    /// Nothing was begun.
    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>>;

    /// Opens an object for reading. It can be read as long as it is open, even if it is deleted meanwhile, or the
    /// reads fail.
    ///
    /// # Errors
    /// `NotFound`, or the system's refusal.
    fn open(&self, key: &str) -> io::Result<Arc<dyn Object>>;

    /// The lengths of objects, `None` for one that does not exist; in the order of `keys`.
    ///
    /// # Errors
    /// The system's refusal.
    fn sizes(&self, keys: &[String]) -> io::Result<Vec<Option<u64>>>;

    /// The objects whose key begins with `prefix`, which ends with `/`; in no order. Every object is listed that was
    /// complete before the call.
    ///
    /// # Errors
    /// The system's refusal.
    fn list(&self, prefix: &str) -> io::Result<Vec<Listed>>;

    /// Removes an object; one that does not exist is removed already. Durable as a put is.
    ///
    /// # Errors
    /// The object may exist or not.
    fn delete(&self, key: &str) -> io::Result<()>;

    /// Says that the writer of this name is at work, until the claim is released or the writer dies. Readers of the
    /// claims see it when this returns. The keys of its uploads begin with the writer's name.
    ///
    /// # Errors
    /// Nothing is claimed.
    fn claim(&self, writer: &str, bytes: &[u8]) -> io::Result<Box<dyn Claim>>;

    /// The claims that were not released. Removes on the way what only the backend knows of: unfinished uploads of
    /// dead writers.
    ///
    /// # Errors
    /// The system's refusal.
    fn claims(&self) -> io::Result<Vec<Claimed>>;

    /// Removes the claim of a dead writer.
    ///
    /// # Errors
    /// The system's refusal.
    fn bury(&self, writer: &str) -> io::Result<()>;

    /// How many reads at a time are worth while, where more of them than processors hide a latency.
    fn readers(&self) -> usize {
        std::thread::available_parallelism().map_or(2, usize::from)
    }

    /// Bytes that a read should take along, where a read costs as much as these.
    fn read_ahead(&self) -> usize {
        16 << 10
    }
}

/// An object that is open for reading.
pub trait Object: Send + Sync + fmt::Debug {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) where the object ends before, or the system's refusal.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// An object under way. Dropped without a commit, it was never there.
pub trait Upload: Send + fmt::Debug {
    /// Appends all of `bytes`. Returns before they are durable.
    ///
    /// # Errors
    /// The upload is lost; only dropping it is left. The error may be of bytes appended before.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the object durable, then visible.
    ///
    /// # Errors
    /// The object may exist or not.
    fn commit(self: Box<Self>) -> io::Result<()>;
}

/// The sign of a writer at work. Dropped without a release, its writer counts as dead.
pub trait Claim: Send + Sync + fmt::Debug {
    /// Whether the claim has held without a break: nobody can have taken the writer for dead. Asked right before an
    /// image is published.
    ///
    /// # Errors
    /// Why it may have been lost; the image must not be published.
    fn confirm(&self) -> io::Result<()>;

    /// The writer has finished or removed all that it made.
    ///
    /// # Errors
    /// The claim stays, as that of a dead writer.
    fn release(self: Box<Self>) -> io::Result<()>;
}
