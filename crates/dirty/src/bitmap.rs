//! A bitmap that any thread may set bits in while another takes them.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;

use crate::mutant::{self, Mutant};
use crate::sync::{AtomicU64, Ordering};

/// A bitmap of pages: any thread marks, any thread collects, no bit is lost.
///
/// # Concurrency
///
/// A writer changes a page and *then* sets its bit; a collector takes the bit and *then* reads the page. Both are
/// read-modify-writes of one word, so one comes first. If the mark does, the collector's acquire pairs with the mark's
/// release (also through marks of other bits in between, which continue its release sequence) and the page is read
/// with the change in it. If the mark comes second, the bit is still there for the next collection.
///
/// This is why [`set`](Self::set) always writes, and never looks first whether the bit is set: a look can see a bit
/// that has just been taken by a collector that read the page before the change, and the change would be lost.
///
/// # Panics
/// Every method that takes a bit or word index panics if it is out of range: an index is checked where it enters,
/// against a memslot.
pub struct AtomicBitmap {
    words: Box<[AtomicU64]>,
    bits: u64,
}

impl AtomicBitmap {
    /// A bitmap of `bits` zeros.
    ///
    /// # Panics
    /// If the address space cannot hold as many.
    #[must_use]
    pub fn new(bits: u64) -> Self {
        let words = usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), bits }
    }

    /// How many bits the bitmap has, set or not.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// How many 64-bit words it has. Bits of the last one past [`bits`](Self::bits) are never set.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// Sets bit `bit`; whether it was clear. Release: pairs with the acquire of whoever takes it.
    pub fn set(&self, bit: u64) -> bool {
        assert!(bit < self.bits, "bit {bit} of a bitmap of {} bits", self.bits);
        let mask = 1 << (bit % 64);
        if mutant::active(Mutant::LookBeforeMark) && self.test(bit) {
            return false;
        }
        self.word(bit / 64).fetch_or(mask, Ordering::Release) & mask == 0
    }

    /// Sets the bits of `range`. Release, like [`set`](Self::set).
    pub fn set_range(&self, range: Range<u64>) {
        assert!(range.end <= self.bits, "bits to {} of a bitmap of {} bits", range.end, self.bits);
        let mut bit = range.start;
        while bit < range.end {
            let end = range.end.min((bit / 64 + 1) * 64);
            let mask = u64::MAX >> (64 - (end - bit)) << (bit % 64);
            self.word(bit / 64).fetch_or(mask, Ordering::Release);
            bit = end;
        }
    }

    /// Sets every bit. Release, like [`set`](Self::set).
    pub fn fill(&self) {
        self.set_range(0..self.bits);
    }

    /// Whether bit `bit` is set. Acquire: pairs with the release of whoever set it.
    #[must_use]
    pub fn test(&self, bit: u64) -> bool {
        assert!(bit < self.bits, "bit {bit} of a bitmap of {} bits", self.bits);
        self.word(bit / 64).load(Ordering::Acquire) >> (bit % 64) & 1 != 0
    }

    /// Word `word` as it is. Acquire: pairs with the release of whoever set its bits.
    #[must_use]
    pub fn load_word(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Acquire)
    }

    /// Puts `value` in place of word `word` and returns what was there; `swap_word(w, 0)` takes a word.
    ///
    /// Bits of `value` past the end are dropped. Acquire for the bits taken and release for those put.
    pub fn swap_word(&self, word: usize, value: u64) -> u64 {
        if mutant::active(Mutant::TakeInTwoSteps) {
            let taken = self.words[word].load(Ordering::Acquire);
            self.words[word].store(value & self.valid(word), Ordering::Release);
            return taken;
        }
        self.words[word].swap(value & self.valid(word), Ordering::AcqRel)
    }

    /// Clears the bits of `mask` in word `word` and returns those that were set. Acquire, like
    /// [`swap_word`](Self::swap_word); the bits left alone keep the release of whoever set them.
    pub fn clear_bits(&self, word: usize, mask: u64) -> u64 {
        self.words[word].fetch_and(!mask, Ordering::AcqRel) & mask
    }

    /// How many bits are set: a walk of the whole bitmap.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// The bits of word `word` that exist.
    fn valid(&self, word: usize) -> u64 {
        let tail = self.bits % 64;
        if tail != 0 && word + 1 == self.words.len() { (1 << tail) - 1 } else { u64::MAX }
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        // Below `words.len()`, a usize, by the caller's check.
        #[allow(clippy::cast_possible_truncation, reason = "checked against the number of bits")]
        &self.words[index as usize]
    }
}

impl fmt::Debug for AtomicBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AtomicBitmap({} of {} bits)", self.count(), self.bits)
    }
}
