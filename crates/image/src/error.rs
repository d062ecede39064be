//! What can go wrong, one type an operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ringmark_dirty::SlotId;

use crate::ImageId;

/// Why a directory could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// There is nothing at the path.
    #[error("there is no image store at {0}: take a checkpoint first, or name the right store")]
    Absent(String),
    /// An empty directory.
    #[error(
        "{0} is an empty directory and not an image store yet: take a checkpoint first, or name the right store"
    )]
    Empty(String),
    /// Not a directory at all.
    #[error("{0} is not a directory, so it cannot be an image store: name another path")]
    NotADirectory(PathBuf),
    /// A URL: whoever knows its scheme opens the store with a backend.
    #[error(
        "{0} is not a directory: stores elsewhere are opened through a backend of their kind (`Store::with_backend`)"
    )]
    Location(String),
    /// A place with somebody else's files in it.
    #[error(
        "{dir} holds {found:?} and is not an image store: name an empty directory or an existing store; nothing was \
         changed"
    )]
    Foreign {
        /// The place.
        dir: String,
        /// One of its entries.
        found: String,
    },
    /// A store of another version.
    #[error("{marker} says {found:?}; this program reads stores of version 1: use the program that wrote it")]
    Version {
        /// The object that names the version.
        marker: String,
        /// Its contents, shortened.
        found: String,
    },
    /// The disk or the object store refused.
    #[error("cannot open the image store, {doing} {at} failed: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        at: String,
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
        /// The store.
        store: String,
    },
    /// A pack that the image needs is gone, its own or that of an image it goes on from.
    #[error("image {image} needs {layer}, which is missing from {store}: put it back, or use another image")]
    MissingLayer {
        /// The image asked for.
        image: ImageId,
        /// The key of the pack that is missing.
        layer: String,
        /// The store.
        store: String,
    },
    /// An object that something else wrote.
    #[error("{object} is not part of a Ringmark image: it does not begin with {expected:?}")]
    Foreign {
        /// The object.
        object: String,
        /// What it should begin with.
        expected: &'static str,
    },
    /// A format version that this program does not know. Zero is never valid.
    #[error(
        "{object} has format version {found}; this program reads version {known}: use a program that knows it"
    )]
    Version {
        /// The object.
        object: String,
        /// The version found.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// Contents that contradict their hash, their length, or themselves.
    #[error("{object} is damaged: {what}; use another image, or a copy of this one")]
    Damaged {
        /// The object.
        object: String,
        /// The contradiction.
        what: String,
    },
    /// A page whose contents contradict their hash.
    #[error(
        "{object} is damaged: page {offset} of memslot {slot} does not have the hash that its index records"
    )]
    DamagedPage {
        /// The object.
        object: String,
        /// The memslot.
        slot: SlotId,
        /// Pages from the slot's beginning.
        offset: u64,
    },
    /// Images that cannot be compared.
    #[error("images {one} and {two} are of different memory layouts and cannot be compared page by page")]
    AnotherLayout {
        /// The one.
        one: ImageId,
        /// The other.
        two: ImageId,
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
    /// The disk or the object store refused.
    #[error("cannot read {object}: {source}")]
    Io {
        /// The object.
        object: String,
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
#[error("cannot list the images in {store}: {source}")]
pub struct ListError {
    /// The store.
    pub store: String,
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
        /// The store.
        store: String,
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
    /// A parent that is spread over so many packs that an increment to it would cost more than a base.
    #[error("image {parent} is spread over {packs} packs, too many to go on from: take a base image")]
    Scattered {
        /// The parent.
        parent: ImageId,
        /// Packs that it needs.
        packs: usize,
    },
    /// A machine name that no image can carry.
    #[error(
        "{0:?} cannot be the name of a machine in an image: it has 1 to 255 bytes and no control characters"
    )]
    Name(String),
    /// The disk or the object store refused.
    #[error("cannot begin an image, {doing} {at} failed: {source}; the store is unchanged")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        at: String,
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
        "{at}: {source} after {written} bytes of this image; the store is unchanged: free space there, or use \
         another store, and take the checkpoint again"
    )]
    Full {
        /// The object that could not grow.
        at: String,
        /// Bytes of the pack that had been written.
        written: u64,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The disk or the object store refused, or did not make the image durable.
    #[error("{doing} {at} failed: {source}; the store is unchanged: take the checkpoint again")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        at: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The image had become visible, could not be made durable, and could not be withdrawn.
    #[error(
        "image {id} was written but {doing} {at} failed: {source}; it may vanish with a power failure: do not rely \
         on it"
    )]
    NotWithdrawn {
        /// The image.
        id: ImageId,
        /// What was being done.
        doing: &'static str,
        /// To what.
        at: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The parent cannot be read any more.
    #[error("the parent image cannot be read: {0}; the store is unchanged: take a base image")]
    Parent(#[source] Arc<ImageError>),
    /// The image would need more packs than one can name.
    #[error("the image would need more than {max} packs; the store is unchanged: take a base image")]
    TooManyPacks {
        /// The most packs of an image.
        max: usize,
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
    /// `doing` something to `at` failed with `source`, after `written` bytes of the packs.
    pub(crate) fn io(doing: &'static str, at: &str, source: io::Error, written: u64) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let (at, source) = (at.to_owned(), Arc::new(source));
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full { at, written, source },
            _ => Self::Io { doing, at, source },
        }
    }
}

/// Why images or leftovers were not removed, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The store has no such image.
    #[error("there is no image {id} in {store}; nothing was removed")]
    NoSuchImage {
        /// The image asked for.
        id: ImageId,
        /// The store.
        store: String,
    },
    /// Nobody can say which packs a damaged image needs.
    #[error(
        "{name} is damaged, so that nobody can say which packs it needs: the images named were removed, but no pack \
         was; remove {name} and sweep again ({error})"
    )]
    Damaged {
        /// The entry of the store.
        name: String,
        /// Why it cannot be read.
        error: ImageError,
    },
    /// The store could not be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// The disk or the object store refused.
    #[error("{doing} {at} failed: {source}; what is left is removed by the next sweep")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        at: String,
        /// What the system said.
        source: io::Error,
    },
}
