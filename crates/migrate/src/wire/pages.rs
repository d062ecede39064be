//! A run of pages of one memslot, in one frame.

use ringmark_dirty::{SlotId, SlotTable};

use super::message::Encoding;

/// Bytes before the encoded pages.
const HEADER: usize = 24;

/// Which pages a frame holds, and how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The memslot.
    pub slot: SlotId,
    /// The first page, counted from the slot's start.
    pub first: u64,
    /// How many; at least one.
    pub count: u32,
    /// How their bytes are written.
    pub encoding: Encoding,
}

/// A frame that holds no run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Too short.
    #[error("a frame of pages has {0} bytes, and its header alone {HEADER}")]
    Short(usize),
    /// An encoding that there is not.
    #[error("a frame of pages has the unknown encoding {0}")]
    Encoding(u32),
    /// Pages that the machine has not.
    #[error("a frame holds {count} pages from page {first} of memslot {slot}, which has {npages}")]
    Outside {
        /// The memslot.
        slot: SlotId,
        /// The first page.
        first: u64,
        /// How many.
        count: u32,
        /// How many there are.
        npages: u64,
    },
}

impl Run {
    /// Writes the header of the frame; the encoded pages follow it.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.slot.raw().to_le_bytes());
        to.extend_from_slice(&number(self.encoding).to_le_bytes());
        to.extend_from_slice(&self.first.to_le_bytes());
        to.extend_from_slice(&self.count.to_le_bytes());
        to.extend_from_slice(&[0; 4]);
    }

    /// Reads the header of a frame, checked against the memory there is, and gives the encoded pages.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn decode<'a>(frame: &'a [u8], slots: &SlotTable) -> Result<(Self, &'a [u8]), RunError> {
        let (header, rest) = frame.split_at_checked(HEADER).ok_or(RunError::Short(frame.len()))?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let slot = SlotId::from_raw(word(0));
        let encoding = from_number(word(4)).ok_or(RunError::Encoding(word(4)))?;
        let first = u64::from(word(8)) | u64::from(word(12)) << 32;
        let count = word(16);
        let npages = slots.get(slot).map_or(0, |slot| slot.npages);
        let inside = first.checked_add(u64::from(count)).is_some_and(|end| end <= npages);
        if count == 0 || !inside {
            return Err(RunError::Outside { slot, first, count, npages });
        }
        Ok((Self { slot, first, count, encoding }, rest))
    }
}

const fn number(encoding: Encoding) -> u32 {
    match encoding {
        Encoding::Zero => 1,
        Encoding::Word => 2,
        Encoding::Raw => 3,
        Encoding::Lz4 => 4,
        Encoding::Zstd => 5,
        Encoding::Delta => 6,
    }
}

const fn from_number(number: u32) -> Option<Encoding> {
    Some(match number {
        1 => Encoding::Zero,
        2 => Encoding::Word,
        3 => Encoding::Raw,
        4 => Encoding::Lz4,
        5 => Encoding::Zstd,
        6 => Encoding::Delta,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmark_dirty::{Gfn, Memslot};

    #[test]
    fn only_pages_that_there_are() {
        let slot = SlotId::new(0, 3);
        let slots = SlotTable::new([Memslot { id: slot, base: Gfn(16), npages: 100 }]).unwrap();
        let frame = |run: Run| {
            let mut bytes = Vec::new();
            run.encode(&mut bytes);
            bytes.push(7);
            bytes
        };
        let good = Run { slot, first: 90, count: 10, encoding: Encoding::Delta };
        assert_eq!(Run::decode(&frame(good), &slots), Ok((good, [7].as_slice())));
        for bad in [
            Run { first: 91, ..good },
            Run { first: u64::MAX, ..good },
            Run { count: 0, ..good },
            Run { slot: SlotId::new(0, 4), ..good },
        ] {
            assert!(matches!(Run::decode(&frame(bad), &slots), Err(RunError::Outside { .. })), "{bad:?}");
        }
        assert_eq!(Run::decode(&frame(good)[..23], &slots), Err(RunError::Short(23)));
        let mut unknown = frame(good);
        unknown[4] = 0;
        assert_eq!(Run::decode(&unknown, &slots), Err(RunError::Encoding(0)));
    }
}
