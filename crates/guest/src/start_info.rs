//! The PVH boot protocol's start information (`struct hvm_start_info`), as the program finds it in its memory.

use core::fmt;
use core::ops::Range;

use crate::memory::Load;

const MAGIC: u32 = 0x336e_c578;
/// Bytes of an entry of the memory map (`struct hvm_memmap_table_entry`).
const ENTRY_BYTES: u64 = 24;
const TYPE_RAM: u32 = 1;
/// More entries than any memory map has.
const MAX_ENTRIES: u32 = 128;

/// Where the loader left the command line and the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartInfo {
    command_line: u64,
    memory_map: u64,
    entries: u32,
}

impl StartInfo {
    /// Reads the structure at `gpa`.
    ///
    /// # Errors
    ///
    /// [`StartInfoError`]; memory that cannot be read is the memory's error in it.
    pub fn load<L: Load>(memory: &mut L, gpa: u64) -> Result<Self, StartInfoError<L::Error>> {
        if !gpa.is_multiple_of(8) {
            return Err(StartInfoError::Unaligned(gpa));
        }
        let mut word = |offset| memory.load(gpa + offset).map_err(StartInfoError::Memory);
        let (magic, version) = halves(word(0)?);
        if magic != MAGIC {
            return Err(StartInfoError::Magic { gpa, magic });
        }
        let command_line = word(24)?;
        if version == 0 {
            return Ok(Self { command_line, memory_map: 0, entries: 0 });
        }
        let (entries, _) = halves(word(48)?);
        Ok(Self { command_line, memory_map: word(40)?, entries: entries.min(MAX_ENTRIES) })
    }

    /// Copies the command line into `buffer` and returns it up to its end, the end of the buffer or the first byte
    /// that is not ASCII.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn command_line<'b, L: Load>(
        &self,
        memory: &mut L,
        buffer: &'b mut [u8],
    ) -> Result<&'b str, L::Error> {
        let mut length = 0;
        if self.command_line != 0 {
            for (gpa, byte) in (self.command_line..).zip(&mut *buffer) {
                let word = memory.load(gpa & !7)?.to_le_bytes();
                *byte = word.into_iter().zip(0..8).find(|(_, at)| *at == gpa & 7).map_or(0, |(byte, _)| byte);
                if *byte == 0 || !byte.is_ascii() {
                    break;
                }
                length += 1;
            }
        }
        Ok(core::str::from_utf8(&buffer[..length]).unwrap_or_default())
    }

    /// The largest range of RAM at or above `floor`, empty where there is none.
    ///
    /// # Errors
    ///
    /// The memory's.
    pub fn largest_ram<L: Load>(&self, memory: &mut L, floor: u64) -> Result<Range<u64>, L::Error> {
        let mut largest = 0..0;
        for entry in 0..u64::from(self.entries) {
            let at = self.memory_map + entry * ENTRY_BYTES;
            let (start, bytes) = (memory.load(at)?, memory.load(at + 8)?);
            let (kind, _) = halves(memory.load(at + 16)?);
            let range = start.max(floor)..start.saturating_add(bytes);
            if kind == TYPE_RAM && range.end.saturating_sub(range.start) > largest.end - largest.start {
                largest = range;
            }
        }
        Ok(largest)
    }
}

/// The low and the high half of a word.
const fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// Why there is no start information; `E` is the memory's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError<E> {
    /// The memory could not be read.
    Memory(E),
    /// The address is no multiple of eight.
    Unaligned(u64),
    /// The structure begins with another word.
    Magic {
        /// Its address.
        gpa: u64,
        /// What it begins with.
        magic: u32,
    },
}

impl<E: fmt::Display> fmt::Display for StartInfoError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "the start information cannot be read: {error}"),
            Self::Unaligned(gpa) => write!(f, "start information at {gpa:#x}, which is unaligned"),
            Self::Magic { gpa, magic } => {
                write!(f, "no start information at {gpa:#x}: it begins with {magic:#x}")
            }
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for StartInfoError<E> {}
