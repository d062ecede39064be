//! Opening stores and finding images, with the exit codes of what can go wrong.

use ringmark_image::{FindError, ImageError, ImageId, OpenStoreError, Store};

use crate::failure::{Code, Failure, OrFail, Result};

/// Why a store could not be opened.
pub(crate) fn open_failure(error: &OpenStoreError) -> Failure {
    let code = match error {
        OpenStoreError::Absent(_) | OpenStoreError::Empty(_) => Code::NotFound,
        _ => Code::Store,
    };
    Failure::new(code, error)
}

/// Adds to a failure that no machine came of it.
pub(crate) fn not_started(failure: Failure) -> Failure {
    failure.guest("there is none: it was not started")
}

/// The exit code of an image that cannot be read.
pub(crate) fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::NoSuchImage { .. } => Code::NotFound,
        ImageError::MissingLayer { .. } => Code::LayerMissing,
        ImageError::Io { .. } => Code::Store,
        _ => Code::ImageInvalid,
    }
}

/// The image that `name` means: the newest of the machine of that name, else the one whose identity begins so.
pub(crate) fn resolve(store: &Store, name: &str) -> Result<ImageId> {
    if let Some(newest) = store.newest(name).or_fail(Code::Store)? {
        return Ok(newest.id);
    }
    store.find(name).map_err(|error| match error {
        FindError::List(error) => Failure::new(Code::Store, error),
        error => Failure::new(Code::NotFound, format!("no machine and no image is called `{name}`: {error}"))
            .advice("`ringmark images` lists what the store holds"),
    })
}
