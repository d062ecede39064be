//! Errors that more than one operation gives.

use std::error::Error;

/// An error of the caller's own code: vCPUs, devices, guest memory.
pub type BoxError = Box<dyn Error + Send + Sync>;
