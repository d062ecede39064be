//! Bytes out of any serde format, with a limit on how many.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, SeqAccess, Visitor};

/// Reads up to `most` bytes.
pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D, most: usize) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_byte_buf(Bytes { most })
}

/// Takes up to `most` bytes, however the format has them.
struct Bytes {
    most: usize,
}

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} bytes", self.most)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        if bytes.len() > self.most { Err(E::invalid_length(bytes.len(), &self)) } else { Ok(bytes.to_vec()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            if bytes.len() == self.most {
                return Err(A::Error::invalid_length(bytes.len() + 1, &self));
            }
            bytes.push(byte);
        }
        Ok(bytes)
    }
}
