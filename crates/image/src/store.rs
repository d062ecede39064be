//! The place that images are kept in.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;

use crate::backend::{Backend, Durability};
use crate::format::header::damaged;
use crate::format::meta::{self, Meta};
use crate::location::Location;
use crate::read::cache::NodeCache;
use crate::write::begin;
use crate::{
    BeginError, Damaged, FindError, Image, ImageError, ImageId, ImageSpec, ListError, Listing,
    OpenStoreError, Summary, Writer,
};

/// What says that a place is a store.
pub(crate) const MARKER: &str = "ringmark-store";
/// Its contents.
pub(crate) const MARKER_CONTENTS: &str = "ringmark image store, format version 1\n";

/// What of metadata comes before an identity in its key.
const IMAGES: &str = "images/";

/// A place of images.
///
/// Any number of processes may use one store at a time. A `Store` holds nothing open; its clones share what they have
/// read of indexes.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Arc<dyn Backend>,
    nodes: Arc<NodeCache>,
}

/// An image in a listing, by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) len: u64,
    pub(crate) sequence: u64,
    pub(crate) id: ImageId,
}

impl Store {
    /// Opens the store at `location`, a directory.
    ///
    /// # Errors
    /// Nothing there, an empty place, foreign contents, another version, or the system's refusal.
    pub fn open(location: impl Into<Location>) -> Result<Self, OpenStoreError> {
        Ok(Self::on(Arc::new(location.into().directory()?.open_store(false)?)))
    }

    /// Opens the store at `location`, a directory; founds one where there is nothing, or an empty directory.
    ///
    /// # Errors
    /// Foreign contents, another version, or the system's refusal.
    pub fn create_or_open(location: impl Into<Location>) -> Result<Self, OpenStoreError> {
        Ok(Self::on(Arc::new(location.into().directory()?.open_store(true)?)))
    }

    /// Opens the store that `backend` keeps; founds one where there is none, if `create` is set.
    ///
    /// # Errors
    /// Nothing there, another version, or the system's refusal.
    pub fn with_backend(backend: Arc<dyn Backend>, create: bool) -> Result<Self, OpenStoreError> {
        let at = backend.location().to_owned();
        let failed = |doing| {
            let at = at.clone();
            move |source| OpenStoreError::Io { doing, at, source }
        };
        let marker = [MARKER.to_owned()];
        let len = backend.sizes(&marker).map_err(failed("looking at"))?.first().copied().flatten();
        let Some(len) = len else {
            if !create {
                return Err(OpenStoreError::Absent(at));
            }
            backend.put_if_absent(MARKER, MARKER_CONTENTS.as_bytes()).map_err(failed("founding"))?;
            return Ok(Self::on(backend));
        };
        let mut found = vec![0; MARKER_CONTENTS.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        backend.open(MARKER).and_then(|m| m.read_at(&mut found, 0)).map_err(failed("reading"))?;
        if found == MARKER_CONTENTS.as_bytes() && len == found.len() as u64 {
            return Ok(Self::on(backend));
        }
        let found = String::from_utf8_lossy(&found).trim_end().to_owned();
        Err(OpenStoreError::Version { marker: format!("{at}/{MARKER}"), found })
    }

    /// The store that `backend` is known to keep.
    fn on(backend: Arc<dyn Backend>) -> Self {
        Self { backend, nodes: Arc::default() }
    }

    /// The same store, with another promise for the images that are written.
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        Self { backend: self.backend.with_durability(durability), ..self }
    }

    /// The path or URL, which opens the same store again.
    #[must_use]
    pub fn location(&self) -> &str {
        self.backend.location()
    }

    /// What keeps the store's objects.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn nodes(&self) -> &NodeCache {
        &self.nodes
    }

    /// How messages name the object `key`.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}/{key}", self.location())
    }

    /// Begins an image, and removes what killed writers have left.
    ///
    /// # Errors
    /// A parent that cannot be read or is of another layout, an impossible name, or the system's refusal.
    pub fn begin(&self, spec: ImageSpec) -> Result<Writer, BeginError> {
        begin::begin(self, spec)
    }

    /// Opens image `id`. Reads its metadata and asks for the sizes of the packs that it needs; its index is read as far
    /// as it is used.
    ///
    /// # Errors
    /// An image or a pack that is missing, or damaged metadata.
    pub fn image(&self, id: ImageId) -> Result<Image, ImageError> {
        let found = self.entries().map_err(|source| self.io_error(IMAGES, source))?.0;
        match found.into_iter().find(|e| e.id == id) {
            Some(entry) => Image::open(self, &entry),
            None => Err(ImageError::NoSuchImage { id, store: self.location().to_owned() }),
        }
    }

    /// The metadata of an image, and its bytes.
    pub(crate) fn meta(&self, entry: &Entry) -> Result<(Meta, u64), ImageError> {
        let name = self.name(&entry.key);
        if entry.len > meta::MAX_LEN {
            return Err(damaged(&name, format!("it has more than {} bytes", meta::MAX_LEN)));
        }
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap_or_default()];
        let read = self.backend.open(&entry.key).and_then(|object| object.read_at(&mut bytes, 0));
        read.map_err(|e| self.io_error(&entry.key, e))?;
        let meta = Meta::read(&name, &bytes, entry.id)?;
        if meta.sequence != entry.sequence {
            return Err(damaged(&name, format!("it says that it is number {:016x}", meta.sequence)));
        }
        Ok((meta, entry.len))
    }

    /// What went wrong with the object `key`.
    pub(crate) fn io_error(&self, key: &str, source: io::Error) -> ImageError {
        let object = self.name(key);
        match source.kind() {
            io::ErrorKind::NotFound => damaged(&object, "it is missing".to_owned()),
            io::ErrorKind::UnexpectedEof => damaged(&object, "it is shorter than it should be".to_owned()),
            io::ErrorKind::InvalidData => damaged(&object, source.to_string()),
            _ => ImageError::Io { object, source },
        }
    }

    /// The images by their names, in no order, and the names that are none of an image.
    pub(crate) fn entries(&self) -> io::Result<(Vec<Entry>, Vec<String>)> {
        let (mut entries, mut others) = (Vec::new(), Vec::new());
        for listed in self.backend.list(IMAGES)? {
            let name = listed.key.strip_prefix(IMAGES).unwrap_or(&listed.key);
            match parse(name) {
                Some((sequence, id)) => {
                    entries.push(Entry { sequence, id, len: listed.len, key: listed.key });
                }
                None => others.push(name.to_owned()),
            }
        }
        Ok((entries, others))
    }

    fn list_error(&self, source: io::Error) -> ListError {
        ListError { store: self.location().to_owned(), source }
    }

    /// The image whose identity begins with `prefix`: hexadecimal digits in lower case.
    ///
    /// # Errors
    /// None, or several of them.
    pub fn find(&self, prefix: &str) -> Result<ImageId, FindError> {
        if prefix.is_empty() || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(FindError::NotAnId(prefix.to_owned()));
        }
        let entries = self.entries().map_err(|e| self.list_error(e))?.0;
        let mut candidates: Vec<ImageId> =
            entries.into_iter().map(|e| e.id).filter(|id| id.to_hex().starts_with(prefix)).collect();
        candidates.sort_unstable();
        match candidates[..] {
            [] => Err(FindError::None { prefix: prefix.to_owned(), store: self.location().to_owned() }),
            [id] => Ok(id),
            _ => Err(FindError::Ambiguous { prefix: prefix.to_owned(), candidates }),
        }
    }

    /// All images, newest first: in the reverse of the order in which they became complete, whatever the clock said.
    ///
    /// # Errors
    /// The system's refusal. An image that cannot be read is listed as damaged.
    pub fn list(&self) -> Result<Listing, ListError> {
        let (entries, others) = self.entries().map_err(|e| self.list_error(e))?;
        let mut listing = Listing::default();
        for entry in entries {
            match self.meta(&entry) {
                Ok((meta, len)) => listing.images.push(Summary::of(&meta, entry.id, len)),
                // Removed since it was listed.
                Err(_) if self.is_gone(&entry.key) => {}
                Err(error) => listing.damaged.push(Damaged { name: entry.id.to_hex(), error }),
            }
        }
        for name in others {
            let error =
                damaged(&self.name(&format!("{IMAGES}{name}")), "its name is not an image's".to_owned());
            listing.damaged.push(Damaged { name, error });
        }
        listing.images.sort_unstable_by_key(|i| Reverse((i.sequence, i.created_ns, i.id)));
        listing.damaged.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    pub(crate) fn is_gone(&self, key: &str) -> bool {
        matches!(self.backend.sizes(&[key.to_owned()]).as_deref(), Ok([None]))
    }

    /// The newest image of the machine `vm`. Reads no more metadata than it takes to find it; a damaged image is passed
    /// over, with a warning in the log: it cannot say whose it is.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn newest(&self, vm: &str) -> Result<Option<Summary>, ListError> {
        let mut entries = self.entries().map_err(|e| self.list_error(e))?.0;
        entries.sort_unstable_by_key(|e| Reverse(e.sequence));
        let mut best: Option<Summary> = None;
        for entry in entries {
            if best.as_ref().is_some_and(|best| best.sequence > entry.sequence) {
                break;
            }
            match self.meta(&entry) {
                Ok((meta, len)) if meta.vm == vm => {
                    let found = Summary::of(&meta, entry.id, len);
                    let key = |s: &Summary| (s.created_ns, s.id);
                    if best.as_ref().is_none_or(|best| key(best) < key(&found)) {
                        best = Some(found);
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(image = %entry.id, %error, "a damaged image was passed over"),
            }
        }
        Ok(best)
    }
}

/// The key of the metadata of image `id`, which became complete as number `sequence`.
pub(crate) fn image_key(sequence: u64, id: ImageId) -> String {
    format!("{IMAGES}{sequence:016x}-{id:#}")
}

fn parse(name: &str) -> Option<(u64, ImageId)> {
    let (sequence, id) = name.split_once('-')?;
    let right = sequence.len() == 16 && !sequence.bytes().any(|b| b.is_ascii_uppercase() || b == b'+');
    let sequence = u64::from_str_radix(sequence, 16).ok().filter(|_| right)?;
    Some((sequence, id.parse().ok()?))
}
