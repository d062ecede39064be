//! Structures of the kernel as bytes, for serde.

#![allow(unsafe_code, reason = "structures of the kernel's interface are read and written as bytes")]

use std::fmt;
use std::ops::Deref;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::read_bytes;

/// A structure that is its bytes.
///
/// # Safety
/// Every byte of the type is initialised in every value (padding is spelt out as fields), and every sequence of bytes
/// is a value.
pub unsafe trait Plain: Copy {}

/// A kernel structure that is written down as the bytes it consists of.
///
/// Reading it back refuses another length: a state is of one version of the kernel's interface.
#[derive(Clone, Copy)]
pub struct Raw<T>(pub T);

impl<T> fmt::Debug for Raw<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw<{}>", std::any::type_name::<T>())
    }
}

impl<T: Plain> PartialEq for Raw<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl<T: Plain> Eq for Raw<T> {}

impl<T> Deref for Raw<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Plain> Raw<T> {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `T` is Plain: `size_of::<T>()` initialised bytes, borrowed with `self`.
        unsafe { std::slice::from_raw_parts((&raw const self.0).cast::<u8>(), size_of::<T>()) }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        // SAFETY: the length is checked first, and every sequence of bytes is a `T` since `T` is Plain.
        (bytes.len() == size_of::<T>()).then(|| Self(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }))
    }
}

impl<T: Plain> Serialize for Raw<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.bytes())
    }
}

impl<'de, T: Plain> Deserialize<'de> for Raw<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = read_bytes(deserializer, size_of::<T>())?;
        Self::from_bytes(&bytes).ok_or_else(|| {
            D::Error::custom(format_args!("{} bytes where {} were expected", bytes.len(), size_of::<T>()))
        })
    }
}
