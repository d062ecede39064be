//! What can be wrong with a state.

use ringmark_abi::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[cfg(target_arch = "aarch64")]
use crate::arm64::Part;
#[cfg(target_arch = "x86_64")]
use crate::x86::Part;

/// A part that the host does not have, and the number it said so with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// The part.
    pub what: Part,
    /// What the kernel gave; `EINVAL` stands for an x86 MSR, of which it only says that it was not read.
    #[serde(serialize_with = "errno_to_number", deserialize_with = "errno_from_number")]
    pub errno: Errno,
}

fn errno_to_number<S: Serializer>(errno: &Errno, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i32(errno.raw())
}

fn errno_from_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Errno, D::Error> {
    i32::deserialize(deserializer).map(Errno::from_raw)
}

/// Why a state could not be saved or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A part that every host has, or that this one has, could not be read.
    #[error("{part} cannot be saved: {errno}")]
    Save {
        /// The part.
        part: Part,
        /// What the kernel gave.
        errno: Errno,
    },
    /// A part that was saved could not be set: this host cannot go on with the state.
    #[error(
        "{part} cannot be restored on this host: {errno}; restore on a host like the one it was saved on"
    )]
    Restore {
        /// The part.
        part: Part,
        /// What the kernel gave.
        errno: Errno,
    },
    /// An MSR would not take its value and holds another.
    #[cfg(target_arch = "x86_64")]
    #[error(
        "MSR {index:#x} cannot be restored on this host: it refuses {value:#x}; restore on a host like the one it \
         was saved on"
    )]
    Msr {
        /// The MSR.
        index: u32,
        /// The value it refused.
        value: u64,
    },
}

/// Tells a part that the host lacks from one that could not be read.
pub(crate) fn optional<T>(
    part: Part,
    result: Result<T, Errno>,
    absent: &mut Vec<Absent>,
) -> Result<Option<T>, StateError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(errno) if means_absent(errno) => {
            absent.push(Absent { what: part, errno });
            Ok(None)
        }
        Err(errno) => Err(StateError::Save { part, errno }),
    }
}

fn means_absent(errno: Errno) -> bool {
    matches!(errno, Errno::EINVAL | Errno::ENOTTY | Errno::ENXIO | Errno::ENODEV)
        || matches!(errno.raw(), libc::ENOSYS | libc::EOPNOTSUPP)
}
