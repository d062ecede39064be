//! Checkpoint images of virtual machines, and the store that keeps them.
//!
//! An *image* is the memory and the machine state of one cut. A *base* image holds every page; an *increment* is put
//! together from the pages that an epoch reported and from what its parent has. A [`Store`] keeps images as objects that
//! never change, in a [`Directory`] or behind any other [`Backend`]:
//!
//! ```text
//! ringmark-store               what this place is, and the version of the format
//! images/<sequence>-<identity> metadata: name, parent, memory layout, the index's root, the packs and the state parts
//! packs/<writer>-<n>           extents of up to 64 KiB, compressed where that pays; nodes of the index; machine state
//! writers/<writer>             the claims of writers at work
//! ```
//!
//! The *identity* of an image is the BLAKE3 of its metadata, from which hashes lead to every other byte: who knows an
//! identity can check all of it. It is shown as twelve hexadecimal digits and accepted as any unique prefix. The
//! repository's `docs/image-format.md` has the format in full.
//!
//! **The index** is a tree of nodes that never change, sixty-four children each. An increment writes the leaves that
//! differ from its parent's and the way to them, and shares all others. So writing costs what is dirty, opening costs
//! next to nothing whatever the memory, and every page is found in one walk however long the chain. An image needs packs
//! of its ancestors but none of their metadata: ancestors can be removed, and [`Store::remove`] frees exactly the packs
//! that nobody else needs.
//!
//! **Writing.** [`Store::begin`] gives a [`Writer`]; [`put`](Writer::put) takes pages while threads of the writer find
//! out which are zero, repeat a word, or are what they are in the parent, and compress and store the others in bounded
//! memory; where a long chain has strewn pages over too many extents, those beside them are stored anew with them, so that
//! a restore stays as quick as that of a base; [`finish`](Writer::finish) returns when the image is durable. An image becomes visible in one step, after
//! everything that it needs is durable; whatever goes wrong before (a full disk, an `fsync` that fails, a killed
//! process) leaves the store as it was. What a dead writer left behind is removed when the next one begins. The caller
//! keeps owning the pages of its epoch until `finish` has returned `Ok`.
//!
//! **Reading.** [`Image::page`] reads one page, [`Image::extent`] also what comes with it, [`Image::load`] a set and
//! [`Image::restore`] all, on all cores; each page's hash is checked. [`Image::changes`] compares two images at the cost
//! of what differs. [`Verifier`] checks without restoring. No length, count, offset or order that was read is used before
//! it is checked.

mod aligned;
mod backend;
mod directory;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod hostile_tests;
mod id;
mod layout;
mod location;
mod publish;
mod read;
mod remove;
mod store;
mod summary;
mod write;

pub use backend::{Backend, Claim, Claimed, Durability, Listed, Object, Upload};
pub use directory::{Directory, Disk, DiskFile, RealDisk};
pub use error::{
    BeginError, FindError, ImageError, ListError, OpenStoreError, RemoveError, RestoreError, WriteError,
};
pub use id::{ImageId, ParseImageIdError};
pub use layout::{Layout, LayoutError};
pub use location::Location;
pub use read::image::{Image, PageKind};
pub use read::restore::Restored;
pub use read::verify::{Verified, Verifier};
pub use store::Store;
pub use summary::{Damaged, Listing, PackUse, Removed, Summary};
pub use write::writer::{Finished, ImageSpec, Rates, Writer};
