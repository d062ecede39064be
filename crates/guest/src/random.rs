//! Integer pseudo-randomness with one word of state (`SplitMix64`).

/// A generator whose whole state is one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero and at most 2³²; the bias is below 2⁻³².
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound >> 32 <= 1);
        ((self.next() >> 32) * bound) >> 32
    }
}

/// A bijection of words in which every input bit reaches every output bit.
#[inline]
pub(crate) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A checksum of `words` that depends on their order.
#[inline]
pub(crate) fn checksum(words: &[u64]) -> u64 {
    let mut sum = 0x7269_6e67_6d61_726b;
    for &word in words {
        sum = mix(sum ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    // Zero is what memory holds that was never written.
    if sum == 0 { 1 } else { sum }
}
