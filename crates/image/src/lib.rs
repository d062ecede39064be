//! Checkpoint images of virtual machines, and the store that keeps them.
//!
//! An *image* is the memory and the machine state of one cut. A *base* image holds every page; an *increment* holds
//! the pages that an epoch reported, and names its parent. A [`Store`] is a directory of images:
//!
//! ```text
//! store/
//!   ringmark-store          what this directory is, and the version of its layout
//!   lock                    held for moments: while leftovers are swept, and while an image becomes visible
//!   partial/<name>/         images being written; `lock` inside is held by the writer as long as it lives
//!   images/<identity>/      complete images, immutable
//!     meta                  name, parent, memory layout, and size and BLAKE3 of every other file
//!     index                 which extent of the pack holds which page, and xxh3-64 of every page
//!     pages                 the pack: extents of up to 128 KiB, compressed with zstd where that pays
//!     state-<name>          one file for each part of the machine state
//! ```
//!
//! The *identity* of an image is the BLAKE3 of its `meta`, which contains that of all the rest and of the parent: who
//! knows an identity knows every byte below it. It is shown as twelve hexadecimal digits and accepted as any unique
//! prefix.
//!
//! **Writing.** [`Store::begin`] gives a [`Writer`]; [`put`](Writer::put) takes pages while a thread of the writer
//! compresses and stores them in bounded memory; [`finish`](Writer::finish) returns when the image is durable. An
//! image becomes visible by one rename, after every file and both directories are on the disk; whatever goes wrong
//! before (a full disk, an `fsync` that fails, a killed process) leaves the store as it was. What a dead writer
//! left behind is found by its free lock and removed when the next writer begins. The caller keeps owning the pages
//! of its epoch until `finish` has returned `Ok`.
//!
//! **Reading.** [`Store::image`] opens an image and its ancestors, and lays their indexes over one another once; from
//! then on every page is found in one step, however long the chain. [`Image::restore`] hands all pages to a sink and
//! checks the hash of each; [`Image::verify`] checks without restoring. No length, count, offset or order that was
//! read from a disk is used before it is checked.
//!
//! Zero pages cost nothing in the pack. They are recorded nonetheless: a page that became zero since the parent must
//! not keep the parent's contents.

mod batch;
mod disk;
mod encode;
mod error;
mod founding;
mod header;
#[cfg(test)]
mod hostile_tests;
mod id;
mod image;
mod index;
mod layer;
mod layout;
mod meta;
mod pack;
mod pages;
mod partial;
mod publish;
mod reader;
mod resolve;
mod restore;
mod store;
mod summary;
mod table;
mod verify;
mod writer;

pub use disk::{Disk, DiskFile, RealDisk};
pub use error::{BeginError, FindError, ImageError, ListError, OpenStoreError, RestoreError, WriteError};
pub use id::{ImageId, ParseImageIdError};
pub use image::Image;
pub use layout::{Layout, LayoutError};
pub use restore::Restored;
pub use store::Store;
pub use summary::{Damaged, Listing, Summary};
pub use verify::Verified;
pub use writer::{Finished, ImageSpec, Writer};
