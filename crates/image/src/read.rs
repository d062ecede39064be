//! Finding, reading and checking what an image holds.

pub(crate) mod cache;
pub(crate) mod changes;
pub(crate) mod extent;
pub(crate) mod image;
pub(crate) mod packs;
pub(crate) mod restore;
pub(crate) mod tree;
pub(crate) mod verify;
