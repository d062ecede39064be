//! What is kept of a page: nothing, a word, or its hash.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What the contents of a page are to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// All bytes are zero.
    Zero,
    /// The same eight bytes again and again, read as a little-endian number that is not zero.
    Repeated(u64),
    /// Anything else, by its hash.
    Hashed(u64),
}

impl Contents {
    /// Of `page`, which has at least eight bytes.
    pub(crate) fn of(page: &[u8], seed: u64) -> Self {
        match repeated(page) {
            Some(0) => Self::Zero,
            Some(word) => Self::Repeated(word),
            None => Self::Hashed(hash(page, seed)),
        }
    }
}

/// The hash of a page.
pub(crate) fn hash(page: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(page, seed)
}

/// The word that `page` repeats, if it does.
fn repeated(page: &[u8]) -> Option<u64> {
    let word = page.first_chunk::<8>()?;
    // A page that repeats a word is equal to itself moved by one: one `memcmp`, which ends at the first difference.
    (page[8..] == page[..page.len() - 8]).then(|| u64::from_le_bytes(*word))
}

/// Makes `page` of one word.
pub(crate) fn repeat(page: &mut [u8], word: u64) {
    let word = word.to_le_bytes();
    page.chunks_exact_mut(word.len()).for_each(|chunk| chunk.copy_from_slice(&word));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_apart() {
        let mut page = [0u8; 512];
        assert_eq!(Contents::of(&page, 7), Contents::Zero);
        repeat(&mut page, 0x0102_0304_0506_0708);
        assert_eq!(Contents::of(&page, 7), Contents::Repeated(0x0102_0304_0506_0708));
        for at in [0, 7, 8, 255, 504, 511] {
            let mut other = page;
            other[at] ^= 1;
            assert_eq!(Contents::of(&other, 7), Contents::Hashed(hash(&other, 7)), "byte {at}");
            assert_ne!(hash(&other, 7), hash(&other, 8));
        }
    }
}
