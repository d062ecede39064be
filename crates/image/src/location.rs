//! Where a store is: a path or a URL.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Directory, OpenStoreError, RealDisk};

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// A URL, `scheme://…`.
    Url(String),
}

impl Location {
    /// The directory; other places need a backend.
    pub(crate) fn directory(self) -> Result<Directory, OpenStoreError> {
        match self {
            Self::Directory(dir) => Ok(Directory::new(dir, Arc::new(RealDisk))),
            Self::Url(location) => Err(OpenStoreError::Location(location)),
        }
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        match path.to_str() {
            Some(text) if text.starts_with("file:///") => Self::Directory(text["file://".len()..].into()),
            Some(text) if text.contains("://") => Self::Url(text.to_owned()),
            _ => Self::Directory(path),
        }
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl From<&PathBuf> for Location {
    fn from(path: &PathBuf) -> Self {
        path.clone().into()
    }
}

impl From<&str> for Location {
    fn from(text: &str) -> Self {
        PathBuf::from(text).into()
    }
}

impl From<String> for Location {
    fn from(text: String) -> Self {
        PathBuf::from(text).into()
    }
}

impl From<OsString> for Location {
    fn from(text: OsString) -> Self {
        PathBuf::from(text).into()
    }
}
