//! Commands as the queue holds them: four 64-bit words, little endian.

use crate::gic::bits::{field, low8, low16, low32, mask};

/// Command numbers.
pub(super) mod number {
    pub(in super::super) const MOVI: u8 = 0x01;
    pub(in super::super) const INT: u8 = 0x03;
    pub(in super::super) const CLEAR: u8 = 0x04;
    pub(in super::super) const SYNC: u8 = 0x05;
    pub(in super::super) const MAPD: u8 = 0x08;
    pub(in super::super) const MAPC: u8 = 0x09;
    pub(in super::super) const MAPTI: u8 = 0x0a;
    pub(in super::super) const MAPI: u8 = 0x0b;
    pub(in super::super) const INV: u8 = 0x0c;
    pub(in super::super) const INVALL: u8 = 0x0d;
    pub(in super::super) const MOVALL: u8 = 0x0e;
    pub(in super::super) const DISCARD: u8 = 0x0f;
}

/// One command; which of its fields mean something depends on its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command([u64; 4]);

impl Command {
    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        Self(words)
    }

    pub(super) fn number(&self) -> u8 {
        low8(self.0[0])
    }

    pub(super) fn device(&self) -> u32 {
        low32(field(self.0[0], 63, 32))
    }

    pub(super) fn event(&self) -> u32 {
        low32(self.0[1])
    }

    /// The interrupt number of MAPTI.
    pub(super) fn lpi(&self) -> u32 {
        low32(field(self.0[1], 63, 32))
    }

    /// EventID bits of MAPD, 1 to 32.
    pub(super) fn event_bits(&self) -> u32 {
        low32(field(self.0[1], 4, 0)) + 1
    }

    /// The translation table of MAPD.
    pub(super) fn itt(&self) -> u64 {
        self.0[2] & mask(51, 8)
    }

    pub(super) fn collection(&self) -> u16 {
        low16(self.0[2])
    }

    pub(super) fn valid(&self) -> bool {
        self.0[2] >> 63 != 0
    }

    /// The vCPU of MAPC, or the first one of MOVALL.
    pub(super) fn vcpu(&self) -> u32 {
        low32(field(self.0[2], 47, 16))
    }

    /// The second vCPU of MOVALL.
    pub(super) fn other_vcpu(&self) -> u32 {
        low32(field(self.0[3], 47, 16))
    }
}
