//! A base with the contents of any image.

use ringmark_image::{BeginError, Finished, Image, ImageError, ImageSpec, Store, WriteError};

/// Pages that are read at a time.
const CHUNK: u64 = 256;

/// Why there is no flattened image. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum FlattenError {
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No image can be begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The new image was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes a base to `store` that has the memory, the machine state, the name and the time of `image`, and shares nothing
/// with it. The image stays.
///
/// # Errors
/// [`FlattenError`].
pub fn flatten(store: &Store, image: &Image) -> Result<Finished, FlattenError> {
    let summary = image.summary();
    let layout = image.layout().clone();
    let mut writer = store.begin(ImageSpec {
        vm: summary.vm.clone(),
        parent: None,
        layout: layout.clone(),
        created: summary.created(),
    })?;
    let page = usize::try_from(layout.page_size().bytes()).unwrap_or(usize::MAX);
    let mut buf = Vec::new();
    for slot in layout.slots().iter() {
        let mut first = 0;
        while first < slot.npages {
            let pages = CHUNK.min(slot.npages - first);
            buf.resize(usize::try_from(pages).unwrap_or_default() * page, 0);
            image.read(slot.id, first, &mut buf)?;
            writer.put(slot.id, first, &buf)?;
            first += pages;
        }
    }
    for name in image.state_names() {
        writer.put_state(name, &image.state(name)?)?;
    }
    Ok(writer.finish()?)
}
