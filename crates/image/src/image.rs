//! One image, open for reading.

use ringmark_dirty::SlotId;

use crate::index::ZERO;
use crate::layer::Layer;
use crate::resolve::{self, Piece};
use crate::{ImageError, ImageId, Layout, RestoreError, Restored, Store, Summary, Verified, restore, verify};

/// One image with its ancestors, open for reading.
///
/// Metadata and indexes were checked when it was opened; packs and machine state are checked as they are read.
#[derive(Debug)]
pub struct Image {
    /// The image itself, its parent, and so on to the base.
    layers: Vec<Layer>,
    /// What is in force of all layers, in the order of memslots and pages.
    pieces: Vec<Piece>,
}

impl Image {
    pub(crate) fn open(store: &Store, id: ImageId) -> Result<Self, ImageError> {
        let mut layers = vec![Layer::open(store, id)?];
        let mut parent = layers[0].meta.parent;
        // The chain ends: an identity is a hash over the parent's.
        while let Some(layer) = parent {
            let opened = Layer::open(store, layer).map_err(|e| match e {
                ImageError::NoSuchImage { .. } => {
                    ImageError::MissingLayer { image: id, layer, store: store.dir().to_owned() }
                }
                e => e,
            })?;
            if opened.meta.layout != layers[0].meta.layout {
                return Err(ImageError::Damaged {
                    path: store.image_dir(layer),
                    what: format!("it is of another memory layout than image {id}, which needs it"),
                });
            }
            parent = opened.meta.parent;
            layers.push(opened);
        }
        let runs: Vec<_> = layers.iter().map(|l| &l.index.runs[..]).collect();
        let pieces = resolve::resolve(&runs);
        Ok(Self { layers, pieces })
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> ImageId {
        self.top().summary.id
    }

    /// What the store lists of it.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.top().summary
    }

    /// The memory layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.top().meta.layout
    }

    /// The image itself and its ancestors, newest first.
    pub fn chain(&self) -> impl ExactSizeIterator<Item = &Summary> {
        self.layers.iter().map(|l| &l.summary)
    }

    /// The names of the machine state's parts, sorted.
    pub fn state_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.top().meta.states.iter().map(|s| s.name.as_str())
    }

    /// One part of the machine state, its hash checked.
    ///
    /// # Errors
    /// No part of this name, or a damaged one.
    pub fn state(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        self.top().state(name)
    }

    /// Reads the page `offset` pages into `slot` to `buf`, which is as long as a page; its hash is checked. Decodes
    /// an extent a call: for all pages, [`restore`](Self::restore) is the quick way.
    ///
    /// # Errors
    /// A page that the layout does not have, a buffer of another length, or a damaged pack.
    pub fn page(&self, slot: SlotId, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let absent = || ImageError::NoSuchPage { id: self.id(), slot, offset };
        let exists = self.layout().pages_from(slot, offset).is_some_and(|left| left > 0);
        if !exists || buf.len() != self.top().page_bytes() {
            return Err(absent());
        }
        let page = u32::try_from(offset).map_err(|_| absent())?;
        // The base holds every page, so that there is always a piece.
        let piece = resolve::find(&self.pieces, slot.raw(), page).ok_or_else(absent)?;
        if piece.run.extent == ZERO {
            buf.fill(0);
            return Ok(());
        }
        let at = resolve::position(slot.raw(), page);
        let run = piece.cut(at, at + 1).run;
        let layer = &self.layers[piece.layer as usize];
        let mut raw = Vec::new();
        layer.decode(&layer.pack()?, run.extent, &mut Vec::new(), &mut raw)?;
        buf.copy_from_slice(layer.checked(&run, &raw)?);
        Ok(())
    }

    /// Hands every page that is not zero to `sink`, as `(memslot, first page, bytes of whole pages)`. Every page comes
    /// once, after its hash was found right; the order is that of the packs, not that of the memory.
    ///
    /// Zero pages are skipped: the memory that is restored into has to be fresh. Decoding runs on all cores while the
    /// sink works, in about 30 MiB of memory.
    ///
    /// # Errors
    /// A damaged pack, or the first refusal of the sink. The sink has received some of the pages then.
    pub fn restore<E>(
        &self,
        sink: impl FnMut(SlotId, u64, &[u8]) -> Result<(), E>,
    ) -> Result<Restored, RestoreError<E>> {
        restore::restore(&self.layers, &self.pieces, sink)
    }

    /// Checks the image and its ancestors without restoring them. Opening it has checked metadata, indexes, and the
    /// length of every file; `deep` compares every file with its BLAKE3, and every page of every layer with its hash,
    /// those that no longer count included.
    ///
    /// # Errors
    /// The first damage.
    pub fn verify(&self, deep: bool) -> Result<Verified, ImageError> {
        verify::verify(&self.layers, deep)
    }

    fn top(&self) -> &Layer {
        // An image has at least one layer: itself.
        &self.layers[0]
    }
}
