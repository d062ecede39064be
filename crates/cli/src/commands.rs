//! One file a command.

pub(crate) mod checkpoint;
pub(crate) mod conformance;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod flatten;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod migrate;
pub(crate) mod predict;
pub(crate) mod prune;
pub(crate) mod receive;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod torture;
pub(crate) mod verify;
