//! Bytes at a chosen place within a block of memory.

use std::ops::Deref;

/// Alignment that every file system takes for direct writes, of memory, length and offset: the largest logical block of
/// common disks.
pub(crate) const BLOCK: usize = 4096;

/// A buffer of a fixed capacity whose first byte lies at a chosen distance behind a multiple of [`BLOCK`] in memory.
/// Takes no memory before its first byte.
#[derive(Debug)]
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    capacity: usize,
    phase: usize,
    /// Bytes of `bytes` before the first.
    start: usize,
}

impl Aligned {
    /// An empty buffer for `capacity` bytes; the first will be at a multiple of [`BLOCK`] and `phase`.
    pub(crate) const fn new(capacity: usize, phase: usize) -> Self {
        Self { bytes: Vec::new(), capacity, phase, start: 0 }
    }

    /// Empties the buffer. The next first byte will be at `phase`.
    pub(crate) fn restart(&mut self, phase: usize) {
        self.phase = phase;
        self.bytes.clear();
        self.start = 0;
        if self.bytes.capacity() > 0 {
            // The vector never grows, so that it stays where it is.
            self.start = (self.phase % BLOCK + BLOCK - self.bytes.as_ptr().addr() % BLOCK) % BLOCK;
            self.bytes.resize(self.start, 0);
        }
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.len()
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.start + len);
    }

    /// Appends `more`, for which there is room.
    pub(crate) fn extend(&mut self, more: &[u8]) {
        debug_assert!(more.len() <= self.room(), "{} bytes into {}", more.len(), self.room());
        if self.bytes.capacity() == 0 && !more.is_empty() {
            self.bytes.reserve_exact(self.capacity + BLOCK);
            self.restart(self.phase);
        }
        self.bytes.extend_from_slice(more);
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_is_where_it_was_wished() {
        let mut buffer = Aligned::new(3 * BLOCK, 16);
        assert_eq!((buffer.len(), buffer.room()), (0, 3 * BLOCK));
        for phase in [16, 0, BLOCK - 1, BLOCK + 5, 1] {
            buffer.restart(phase);
            buffer.extend(b"abc");
            assert_eq!(buffer.as_ptr().addr() % BLOCK, phase % BLOCK);
            assert_eq!(&*buffer, b"abc");
            buffer.extend(&vec![7; buffer.room()]);
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % BLOCK), (3 * BLOCK, phase % BLOCK));
        }
    }
}
