//! The files of an image beside its pack, and the step that makes all of them visible.

use std::collections::BTreeMap;
use std::path::Path;

use crate::meta::{self, FileRecord, Meta};
use crate::partial::{self, Partial};
use crate::{ImageId, Store, WriteError};

/// An image in its partial directory.
#[derive(Debug)]
pub(crate) struct Unpublished {
    store: Store,
    partial: Partial,
    states: BTreeMap<String, FileRecord>,
}

impl Unpublished {
    pub(crate) fn new(store: Store, partial: Partial) -> Self {
        Self { store, partial, states: BTreeMap::new() }
    }

    /// The parts of machine state so far, in the order of their names.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&String, &FileRecord)> {
        self.states.iter()
    }

    pub(crate) fn nonce(&self) -> Result<u64, WriteError> {
        partial::random().map_err(|e| WriteError::io("naming", self.partial.dir(), e, 0))
    }

    pub(crate) fn put_state(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        if !meta::is_state_name(name) || self.states.contains_key(name) {
            return Err(WriteError::StateName(name.to_owned()));
        }
        if bytes.len() as u64 > meta::MAX_STATE || self.states.len() >= meta::MAX_STATES {
            return Err(WriteError::StateSize {
                name: name.to_owned(),
                len: bytes.len(),
                max: meta::MAX_STATE,
                parts: meta::MAX_STATES,
            });
        }
        let record = self.write_file(&meta::state_file(name), bytes)?;
        self.states.insert(name.to_owned(), record);
        Ok(())
    }

    /// Writes the file `name` of the image; its contents are durable when this returns.
    pub(crate) fn write_file(&self, name: &str, bytes: &[u8]) -> Result<FileRecord, WriteError> {
        let path = self.partial.dir().join(name);
        let failed = |doing| move |e| (doing, e);
        self.store
            .disk()
            .create(&path)
            .map_err(failed("creating"))
            .and_then(|file| {
                file.append(bytes).map_err(failed("writing"))?;
                file.sync().map_err(failed("fsync of"))
            })
            .map_err(|(doing, e)| WriteError::io(doing, &path, e, 0))?;
        Ok(FileRecord { len: bytes.len() as u64, blake3: blake3::hash(bytes) })
    }

    /// Gives the image its place in the order of the store, writes its metadata, and makes it visible. Returns its
    /// identity and the bytes of all its files.
    pub(crate) fn publish(self, mut meta: Meta) -> Result<(ImageId, u64), WriteError> {
        let dir = self.partial.dir();
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |e| WriteError::io(doing, &path, e, 0)
        };
        // Held to the end: two images that become visible at once are still one after the other, and no sweep meets
        // the directory without its lock file.
        let _lock = self.store.lock().map_err(failed("locking", self.store.dir()))?;
        let listing = self.store.list().map_err(|e| WriteError::io("listing", &e.dir, e.source, 0))?;
        let last = listing.images.iter().map(|i| i.sequence).max().unwrap_or(0);
        meta.sequence = last.saturating_add(1);
        let bytes = meta.encode().map_err(|e| {
            WriteError::io("encoding the metadata in", dir, std::io::Error::other(e.to_string()), 0)
        })?;
        self.write_file("meta", &bytes)?;
        self.partial.remove_lock().map_err(failed("unlocking", dir))?;
        self.store.disk().sync_dir(dir).map_err(failed("fsync of", dir))?;

        let id = ImageId::of(&bytes);
        let place = self.store.image_dir(id);
        self.store.disk().rename(dir, &place).map_err(failed("publishing", &place))?;
        for parent in [self.store.images_dir(), self.store.partial_dir()] {
            if let Err(e) = self.store.disk().sync_dir(&parent) {
                return Err(self.withdraw(id, &parent, e));
            }
        }
        self.partial.published();
        Ok((id, meta.summary(id, bytes.len() as u64).bytes_stored))
    }

    /// The rename may not survive a power failure, so the image must not be relied on: makes it invisible again.
    fn withdraw(self, id: ImageId, dir: &Path, error: std::io::Error) -> WriteError {
        let place = self.store.image_dir(id);
        match self.store.disk().rename(&place, self.partial.dir()) {
            Ok(()) => WriteError::io("fsync of", dir, error, 0),
            Err(_) => WriteError::NotWithdrawn {
                id,
                doing: "fsync of",
                path: dir.to_owned(),
                source: std::sync::Arc::new(error),
            },
        }
    }
}
