//! The directory that images are kept in.

use std::cmp::Reverse;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, RealDisk};
use crate::header::damaged;
use crate::meta::{self, Meta};
use crate::pack::Pack;
use crate::partial::{self, Partial};
use crate::publish::Unpublished;
use crate::{
    BeginError, Damaged, FindError, Image, ImageError, ImageId, ImageSpec, ListError, Listing,
    OpenStoreError, Summary, Writer, founding,
};

/// A directory of images.
///
/// Any number of processes may use one store at a time. A `Store` holds nothing open.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Store {
    /// Opens the store at `dir`.
    ///
    /// # Errors
    /// Nothing there, an empty directory, foreign contents, another version, or the file system's refusal.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, OpenStoreError> {
        let dir = dir.into();
        founding::check(&dir)?;
        Ok(Self { dir, disk: Arc::new(RealDisk) })
    }

    /// Opens the store at `dir`; founds one where there is nothing, or an empty directory.
    ///
    /// # Errors
    /// Foreign contents, another version, or the file system's refusal.
    pub fn create_or_open(dir: impl Into<PathBuf>) -> Result<Self, OpenStoreError> {
        let dir = dir.into();
        match founding::check(&dir) {
            Err(OpenStoreError::Absent(_) | OpenStoreError::Empty(_)) => founding::found(&dir, &RealDisk)?,
            other => other?,
        }
        Ok(Self { dir, disk: Arc::new(RealDisk) })
    }

    /// The same store, changed through `disk`.
    #[must_use]
    pub fn on_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(crate) fn images_dir(&self) -> PathBuf {
        self.dir.join(founding::IMAGES)
    }

    pub(crate) fn partial_dir(&self) -> PathBuf {
        self.dir.join(founding::PARTIAL)
    }

    pub(crate) fn image_dir(&self, id: ImageId) -> PathBuf {
        self.images_dir().join(id.to_hex())
    }

    /// Waits for the lock of the store, which is freed when the file is dropped.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let lock = OpenOptions::new().write(true).open(self.dir.join(founding::LOCK))?;
        lock.lock()?;
        Ok(lock)
    }

    /// Begins an image, and removes what killed writers have left.
    ///
    /// # Errors
    /// A parent that cannot be read or is of another layout, an impossible name, or the file system's refusal.
    pub fn begin(&self, spec: ImageSpec) -> Result<Writer, BeginError> {
        if !meta::is_vm_name(&spec.vm) {
            return Err(BeginError::Name(spec.vm));
        }
        if let Some(parent) = spec.parent {
            let found = self.meta(parent).map_err(BeginError::Parent)?.0;
            if found.layout != spec.layout {
                return Err(BeginError::ParentLayout { parent });
            }
        }
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BeginError::Io { doing, path, source }
        };
        let partials = self.partial_dir();
        let partial = {
            let _lock = self.lock().map_err(failed("locking", &self.dir))?;
            partial::sweep(&partials, &self.disk).map_err(failed("sweeping", &partials))?;
            Partial::create(&partials, &self.disk).map_err(failed("writing to", &partials))?
        };
        let path = partial.dir().join("pages");
        let file = self.disk.create(&path).map_err(failed("creating", &path))?;
        let pack = Pack::start(&path, file, &spec.layout).map_err(failed("starting threads for", &path))?;
        Ok(Writer::new(spec, pack, Unpublished::new(self.clone(), partial)))
    }

    /// Opens image `id` with all its ancestors.
    ///
    /// # Errors
    /// An image or an ancestor that is missing or damaged.
    pub fn image(&self, id: ImageId) -> Result<Image, ImageError> {
        Image::open(self, id)
    }

    /// The metadata of image `id`, and the bytes of its file.
    pub(crate) fn meta(&self, id: ImageId) -> Result<(Meta, u64), ImageError> {
        let dir = self.image_dir(id);
        match fs::metadata(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(ImageError::NoSuchImage { id, store: self.dir.clone() })
            }
            Err(source) => Err(ImageError::Io { path: dir, source }),
            Ok(_) => Meta::read(&dir.join("meta"), id),
        }
    }

    /// The image whose identity begins with `prefix`: hexadecimal digits in lower case.
    ///
    /// # Errors
    /// None, or several of them.
    pub fn find(&self, prefix: &str) -> Result<ImageId, FindError> {
        if prefix.is_empty() || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(FindError::NotAnId(prefix.to_owned()));
        }
        let mut candidates: Vec<ImageId> = self
            .names()?
            .into_iter()
            .filter(|n| n.starts_with(prefix))
            .filter_map(|n| n.parse().ok())
            .collect();
        candidates.sort_unstable();
        match candidates[..] {
            [] => Err(FindError::None { prefix: prefix.to_owned(), store: self.dir.clone() }),
            [id] => Ok(id),
            _ => Err(FindError::Ambiguous { prefix: prefix.to_owned(), candidates }),
        }
    }

    /// All images, newest first: in the reverse of the order in which they became complete, whatever the clock said.
    ///
    /// # Errors
    /// The file system's refusal. An image that cannot be read is listed as damaged.
    pub fn list(&self) -> Result<Listing, ListError> {
        let mut listing = Listing::default();
        for name in self.names()? {
            let found = match name.parse::<ImageId>() {
                Ok(id) => self.meta(id).map(|(meta, len)| meta.summary(id, len)),
                Err(e) => Err(damaged(&self.images_dir().join(&name), e.to_string())),
            };
            match found {
                Ok(summary) => listing.images.push(summary),
                Err(error) => listing.damaged.push(Damaged { name, error }),
            }
        }
        listing.images.sort_unstable_by_key(|i| Reverse((i.sequence, i.created_ns, i.id)));
        listing.damaged.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    /// The newest image of the machine `vm`. A damaged image is passed over, with a warning in the log: it cannot say
    /// whose it is.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn newest(&self, vm: &str) -> Result<Option<Summary>, ListError> {
        let listing = self.list()?;
        for damaged in &listing.damaged {
            tracing::warn!(image = damaged.name, error = %damaged.error, "a damaged image was passed over");
        }
        Ok(listing.newest(vm).cloned())
    }

    fn names(&self) -> Result<Vec<String>, ListError> {
        let dir = self.images_dir();
        let failed = |source| ListError { dir: dir.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }
}
