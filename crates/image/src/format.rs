//! What the bytes of a store mean; `docs/image-format.md` says it in full.

pub(crate) mod blocks;
pub(crate) mod header;
pub(crate) mod meta;
pub(crate) mod node;
pub(crate) mod page;
pub(crate) mod spread;
