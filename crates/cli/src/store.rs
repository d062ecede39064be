//! Opening stores and finding images, with the exit codes of what can go wrong.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use ringmark_image::{
    Backend, FindError, Image, ImageError, ImageId, Location, OpenStoreError, RemoveError, Removed, Store,
    Summary,
};
use ringmark_object::Limits;
use serde_json::json;

use crate::args::StoreArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::paths;

/// The store that `args` name, which has to be there.
pub(crate) fn open(args: &StoreArgs) -> Result<Store> {
    match paths::store(args)? {
        Location::Url(url) => Store::with_backend(remote(&url)?, false),
        directory => Store::open(directory),
    }
    .map_err(|error| open_failure(&error))
}

/// The store that `args` name, founded if there is none.
pub(crate) fn create_or_open(args: &StoreArgs) -> Result<Store> {
    match paths::store(args)? {
        Location::Url(url) => Store::with_backend(remote(&url)?, true),
        directory => Store::create_or_open(directory),
    }
    .map_err(|error| open_failure(&error))
}

fn remote(url: &str) -> Result<Arc<dyn Backend>> {
    ringmark_object::open(url, Limits::default()).map_err(|error| match error {
        ringmark_object::OpenError::Url { .. } => Failure::new(Code::Usage, error),
        error => Failure::new(Code::Store, error),
    })
}

/// Why a store could not be opened.
fn open_failure(error: &OpenStoreError) -> Failure {
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

/// Why images were not removed.
pub(crate) fn remove_failure(error: &RemoveError) -> Failure {
    let code = match error {
        RemoveError::NoSuchImage { .. } => Code::NotFound,
        RemoveError::Damaged { .. } => Code::ImageInvalid,
        _ => Code::Store,
    };
    Failure::new(code, error)
}

/// What was removed, as part of a document.
pub(crate) fn removed(removed: &Removed) -> serde_json::Value {
    json!({ "images": removed.images, "packs": removed.packs, "bytes": removed.bytes })
}

/// The image that `name` means: the newest of the machine of that name, else the one whose identity begins so.
pub(crate) fn resolve(store: &Store, name: &str) -> Result<ImageId> {
    if let Some(newest) = store.newest(name).or_fail(Code::Store)? {
        return Ok(newest.id);
    }
    store.find(name).map_err(|error| not_found("machine and no image", name, error))
}

/// The image whose identity begins with `prefix`; the names of machines mean none.
pub(crate) fn identity(store: &Store, prefix: &str) -> Result<ImageId> {
    store.find(prefix).map_err(|error| not_found("image", prefix, error))
}

fn not_found(what: &str, name: impl fmt::Display, error: FindError) -> Failure {
    match error {
        FindError::List(error) => Failure::new(Code::Store, error),
        error => Failure::new(Code::NotFound, format!("no {what} is called `{name}`: {error}"))
            .advice("`ringmark images` lists what the store holds"),
    }
}

/// The image that `name` means, open.
pub(crate) fn image(store: &Store, name: &str) -> Result<Image> {
    let id = resolve(store, name)?;
    store.image(id).map_err(|error| Failure::new(image_code(&error), error))
}

/// How long ago an image was taken, in words.
pub(crate) fn age(image: &Summary) -> String {
    let age = SystemTime::now().duration_since(image.created()).unwrap_or_default();
    format!("{} ago", indicatif::HumanDuration(age))
}
