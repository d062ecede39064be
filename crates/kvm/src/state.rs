//! What saving and restoring state has in common on every architecture.

mod bytes;
mod error;
mod raw;

pub use error::{Absent, StateError};
pub use raw::{Plain, Raw};

pub(crate) use bytes::read as read_bytes;
pub(crate) use error::optional;
