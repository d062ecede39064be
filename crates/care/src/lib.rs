//! Care of a store of checkpoint images, on top of [`ringmark_image`].
//!
//! | module | what it does |
//! |---|---|
//! | [`keep`] | which images of a machine to keep, by rules in the manner of restic's |
//! | [`prune`] | removes the others |
//! | [`family`] | images as trees, what removing one would free, and whose parent it is |
//! | [`diff`] | which pages differ between two images; no page is read for it |
//! | [`heat`] | a picture of guest memory that shows where: for terminals, as PNG and as SVG |
//! | [`flatten`] | a new base with the contents and the state of an image |
//! | [`export`] | memory as a file: raw, or as a core file that debuggers open ([`core`]) |
//! | [`import`] | a base from a file of raw memory |
//!
//! # What belongs to whom
//!
//! Every image finds all of its pages by itself: a parent is *lineage*, not a layer that must stay. So any image can be
//! removed without harm to its descendants; what they share with it stays until nobody needs it. Pruning goes by its
//! policy alone; it is people who are asked before they take a parent away from its children ([`family::orphans`]).

pub mod core;
pub mod diff;
pub mod export;
pub mod family;
pub mod flatten;
pub mod heat;
pub mod import;
pub mod keep;
pub mod prune;
