//! What is computed of a single page.

use xxhash_rust::xxh3::xxh3_64;

/// Whether every byte is zero.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    // Sixty-four bytes at a time, so that the compiler uses vectors and most pages are decided by the first step.
    let mut chunks = page.chunks_exact(64);
    chunks.all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
        && page[page.len() / 64 * 64..].iter().all(|byte| *byte == 0)
}

/// The hash that an index keeps of a page.
pub(crate) fn hash(page: &[u8]) -> u64 {
    xxh3_64(page)
}
