//! The identity of an image.

use std::fmt;
use std::str::FromStr;

/// The identity of an image: the BLAKE3 of its metadata.
///
/// `Display` shows the first twelve hexadecimal digits, `{:#}` all sixty-four.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId([u8; 32]);

/// A text that is not the sixty-four hexadecimal digits of an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an image identity: that is 64 hexadecimal digits in lower case")]
pub struct ParseImageIdError(String);

impl ImageId {
    /// Hexadecimal digits of the short form.
    pub const SHORT: usize = 12;

    pub(crate) fn of(meta: &[u8]) -> Self {
        Self(*blake3::hash(meta).as_bytes())
    }

    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// All sixty-four hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl FromStr for ImageId {
    type Err = ParseImageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Upper case is refused: an identity is also the name of an object and has one spelling.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseImageIdError(text.to_owned()));
        }
        match blake3::Hash::from_hex(text) {
            Ok(hash) => Ok(Self(*hash.as_bytes())),
            Err(_) => Err(ParseImageIdError(text.to_owned())),
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = blake3::Hash::from_bytes(self.0).to_hex();
        let digits = if f.alternate() { hex.len() } else { Self::SHORT };
        f.pad(&hex[..digits])
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageId({self})")
    }
}
