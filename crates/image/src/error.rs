//! What can go wrong, one type an operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringmark_dirty::SlotId;

use crate::ImageId;

/// Why a directory could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// There is nothing at the path.
    #[error("there is no image store at {0}: take a checkpoint first, or name the right store")]
    Absent(PathBuf),
    /// An empty directory.
    #[error(
        "{0} is an empty directory and not an image store yet: take a checkpoint first, or name the right store"
    )]
    Empty(PathBuf),
    /// Not a directory at all.
    #[error("{0} is not a directory, so it cannot be an image store: name another path")]
    NotADirectory(PathBuf),
    /// A directory with somebody else's files in it.
    #[error(
        "{dir} holds {found:?} and is not an image store: name an empty directory or an existing store; nothing was \
         changed"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// A store of another layout.
    #[error("{marker} says {found:?}; this program reads stores of version 1: use the program that wrote it")]
    Version {
        /// The file that names the version.
        marker: PathBuf,
        /// Its contents, shortened.
        found: String,
    },
    /// The file system refused.
    #[error("cannot open the image store, {doing} {path} failed: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why an image cannot be read. Nothing of it has been changed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store has no such image.
    #[error("there is no image {id} in {store}")]
    NoSuchImage {
        /// The image asked for.
        id: ImageId,
        /// The directory of the store.
        store: PathBuf,
    },
    /// An ancestor is gone.
    #[error(
        "image {image} needs image {layer}, which is missing from {store}: put it back, or use an older image"
    )]
    MissingLayer {
        /// The image asked for.
        image: ImageId,
        /// The ancestor that is missing.
        layer: ImageId,
        /// The directory of the store.
        store: PathBuf,
    },
    /// A file that something else wrote.
    #[error("{path} is not part of a Ringmark image: it does not begin with {expected:?}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it should begin with.
        expected: &'static str,
    },
    /// A format version that this program does not know. Zero is never valid.
    #[error(
        "{path} has format version {found}; this program reads version {known}: use a program that knows it"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// Contents that contradict their hash, their length, or themselves.
    #[error("{path} is damaged: {what}; use another image, or a copy of this one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        what: String,
    },
    /// A page whose contents contradict their hash.
    #[error(
        "{path} is damaged: page {offset} of memslot {slot} does not have the hash that its index records"
    )]
    DamagedPage {
        /// The pack.
        path: PathBuf,
        /// The memslot.
        slot: SlotId,
        /// Pages from the slot's beginning.
        offset: u64,
    },
    /// The image has no state part of this name.
    #[error("image {id} holds no machine state named {name:?}")]
    NoSuchState {
        /// The image.
        id: ImageId,
        /// The name asked for.
        name: String,
    },
    /// A page that the layout does not have, or a buffer that is not one page.
    #[error("image {id} has no page {offset} in memslot {slot}, or the buffer is not one page long")]
    NoSuchPage {
        /// The image.
        id: ImageId,
        /// The memslot.
        slot: SlotId,
        /// Pages from the slot's beginning.
        offset: u64,
    },
    /// The file system refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a restore ended early. The sink has received some of the pages.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError<E> {
    /// The image could not be read, or a page was not what its hash says.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The sink refused a run of pages.
    #[error("the sink refused page {offset} of memslot {slot}: {source}")]
    Sink {
        /// The memslot.
        slot: SlotId,
        /// First page of the run, from the slot's beginning.
        offset: u64,
        /// What the sink said.
        source: E,
    },
}

/// Why a store could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list the images in {dir}: {source}")]
pub struct ListError {
    /// The directory.
    pub dir: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Why a name does not lead to one image.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No identity begins so.
    #[error("no image in {store} has an identity that begins with {prefix:?}")]
    None {
        /// What was asked for.
        prefix: String,
        /// The directory of the store.
        store: PathBuf,
    },
    /// Several identities begin so.
    #[error("{prefix:?} could be {} images: {}; give more digits", .candidates.len(), .candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The images it could be.
        candidates: Vec<ImageId>,
    },
    /// Not hexadecimal digits.
    #[error("{0:?} is not an image identity: give its first hexadecimal digits, in lower case")]
    NotAnId(String),
    /// The store could not be listed.
    #[error(transparent)]
    List(#[from] ListError),
}

/// Why no image could be begun. The store is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The parent cannot be read.
    #[error("the parent image cannot be used: {0}")]
    Parent(#[source] ImageError),
    /// The parent is of another memory layout.
    #[error("image {parent} is of another memory layout, so it cannot be the parent: take a base image")]
    ParentLayout {
        /// The parent.
        parent: ImageId,
    },
    /// A machine name that no image can carry.
    #[error(
        "{0:?} cannot be the name of a machine in an image: it has 1 to 255 bytes and no control characters"
    )]
    Name(String),
    /// The file system refused.
    #[error("cannot begin an image, {doing} {path} failed: {source}; the store is unchanged")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why an image was not written. Earlier images are intact, this one does not exist, and the caller still owns its
/// pages: whatever was put has to be part of the next image.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk, the quota or the file-size limit is exhausted.
    #[error(
        "{path}: {source} after {written} bytes of this image; the store is unchanged: free space there, or use \
         another store, and take the checkpoint again"
    )]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// Bytes of the pack that had been written.
        written: u64,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The file system refused, or did not make the image durable.
    #[error("{doing} {path} failed: {source}; the store is unchanged: take the checkpoint again")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The image had become visible, could not be made durable, and could not be withdrawn.
    #[error(
        "image {id} was written but {doing} {path} failed: {source}; it may vanish with a power failure: do not rely \
         on it"
    )]
    NotWithdrawn {
        /// The image.
        id: ImageId,
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Pages outside of the layout.
    #[error("pages {first} to {end} of memslot {slot} are not in the memory layout of the image")]
    OutOfRange {
        /// The memslot.
        slot: SlotId,
        /// First page, from the slot's beginning.
        first: u64,
        /// One past the last page.
        end: u64,
    },
    /// Bytes that are no whole pages.
    #[error("{len} bytes put at page {first} of memslot {slot} are not whole pages of {page_size} bytes")]
    PartialPage {
        /// The memslot.
        slot: SlotId,
        /// First page, from the slot's beginning.
        first: u64,
        /// Bytes put.
        len: usize,
        /// Bytes of a page.
        page_size: u64,
    },
    /// A base image that does not hold every page.
    #[error(
        "a base image holds every page, but page {offset} of memslot {slot} was never put ({missing} pages are \
         missing)"
    )]
    Incomplete {
        /// The memslot of the first missing page.
        slot: SlotId,
        /// The first missing page, from the slot's beginning.
        offset: u64,
        /// All missing pages.
        missing: u64,
    },
    /// A state part that was already put, or whose name no file can have.
    #[error("machine state {0:?}: a name is 1 to 64 of a-z, 0-9, '-', '_' and '.', and is put once")]
    StateName(String),
    /// More state than an image may hold.
    #[error(
        "machine state {name:?} of {len} bytes is too much: a part has at most {max} bytes, an image {parts} parts"
    )]
    StateSize {
        /// The part.
        name: String,
        /// Its bytes.
        len: usize,
        /// The most bytes of a part.
        max: u64,
        /// The most parts of an image.
        parts: usize,
    },
}

impl WriteError {
    /// `doing` something to `path` failed with `source`, after `written` bytes of the pack.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error, written: u64) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let (path, source) = (path.to_owned(), Arc::new(source));
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full { path, written, source },
            _ => Self::Io { doing, path, source },
        }
    }
}
