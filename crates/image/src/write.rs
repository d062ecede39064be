//! Making an image.
//!
//! ```text
//! put ──batch──▶ encode, on all cores ──batch──▶ append to a pack ──▶ Upload
//!  ▲              zero? repeated? hash,            │ every 256 MiB: commit, next pack
//!  │              as in the parent? gather, compress       │
//!  └──────────────── empty batch ──────────────────┘
//! finish: index nodes, table of the pack, commit, metadata
//! ```

pub(crate) mod batch;
pub(crate) mod begin;
pub(crate) mod encode;
pub(crate) mod gather;
pub(crate) mod index;
pub(crate) mod output;
pub(crate) mod pack;
pub(crate) mod pipeline;
pub(crate) mod table;
pub(crate) mod upkeep;
pub(crate) mod writer;
