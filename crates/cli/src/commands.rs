//! One file a command.

pub(crate) mod checkpoint;
pub(crate) mod conformance;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod images;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod verify;
