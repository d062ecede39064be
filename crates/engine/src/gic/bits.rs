//! Fields of registers, commands and table entries.

/// Ones in bits `high` down to `low`.
pub(super) const fn mask(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - (high - low))) << low
}

/// Bits `high` down to `low` of `value`, moved to bit 0.
pub(super) const fn field(value: u64, high: u32, low: u32) -> u64 {
    (value & mask(high, low)) >> low
}

/// The low half of `value`.
#[expect(clippy::cast_possible_truncation, reason = "dropping the upper half is the point")]
pub(super) const fn low32(value: u64) -> u32 {
    value as u32
}

/// The low quarter of `value`.
#[expect(clippy::cast_possible_truncation, reason = "dropping the upper bits is the point")]
pub(super) const fn low16(value: u64) -> u16 {
    value as u16
}

/// The low byte of `value`.
#[expect(clippy::cast_possible_truncation, reason = "dropping the upper bits is the point")]
pub(super) const fn low8(value: u64) -> u8 {
    value as u8
}

/// An access of 4 or 8 bytes within a register of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All 64 bits.
    Whole,
    /// Bits 31 to 0, or all of a 32-bit register.
    Low,
    /// Bits 63 to 32.
    High,
}

impl Part {
    /// The part that `len` bytes at `offset` are, or `None` for an access that is not naturally aligned or too small.
    pub(super) const fn of(offset: u64, len: usize) -> Option<Self> {
        match (len, offset & 7) {
            (8, 0) => Some(Self::Whole),
            (4, 0) => Some(Self::Low),
            (4, 4) => Some(Self::High),
            _ => None,
        }
    }

    /// What a read of this part of `register` gives.
    pub(super) const fn read(self, register: u64) -> u64 {
        match self {
            Self::Whole => register,
            Self::Low => field(register, 31, 0),
            Self::High => field(register, 63, 32),
        }
    }

    /// `register` after `value` was written to this part of it.
    pub(super) const fn write(self, register: u64, value: u64) -> u64 {
        match self {
            Self::Whole => value,
            Self::Low => (register & mask(63, 32)) | field(value, 31, 0),
            Self::High => (register & mask(31, 0)) | (value << 32),
        }
    }
}

/// The attributes of a table's memory in a base register: where the fields of shareability, inner and outer
/// cacheability lie. All tables use the same encodings.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryAttributes {
    /// Lowest bit of the two of shareability.
    pub(super) shareability: u32,
    /// Lowest bit of the three of inner cacheability.
    pub(super) inner: u32,
    /// Lowest bit of the three of outer cacheability.
    pub(super) outer: u32,
}

impl MemoryAttributes {
    /// `register` with the attributes KVM does not accept replaced by the nearest it does: no outer shareability, no
    /// non-cacheable inner mapping, outer either as inner or non-cacheable (`vgic_sanitise_field`).
    pub(super) const fn sanitise(self, register: u64) -> u64 {
        const OUTER_SHAREABLE: u64 = 2;
        const INNER_SHAREABLE: u64 = 1;
        const NON_CACHEABLE: u64 = 1;
        const READ_ALLOCATE_WRITE_BACK: u64 = 3;
        let mut fixed = register;
        if field(fixed, self.shareability + 1, self.shareability) == OUTER_SHAREABLE {
            fixed = replace(fixed, self.shareability + 1, self.shareability, INNER_SHAREABLE);
        }
        if field(fixed, self.inner + 2, self.inner) <= NON_CACHEABLE {
            fixed = replace(fixed, self.inner + 2, self.inner, READ_ALLOCATE_WRITE_BACK);
        }
        if field(fixed, self.outer + 2, self.outer) > NON_CACHEABLE {
            fixed = replace(fixed, self.outer + 2, self.outer, 0);
        }
        fixed
    }
}

const fn replace(register: u64, high: u32, low: u32, value: u64) -> u64 {
    (register & !mask(high, low)) | (value << low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_reach_both_ends() {
        assert_eq!(mask(63, 0), u64::MAX);
        assert_eq!(mask(63, 63), 1 << 63);
        assert_eq!(field(0x1234_5678_9abc_def0, 63, 48), 0x1234);
        assert_eq!(field(0xff, 3, 0), 0xf);
    }

    #[test]
    fn halves_keep_the_other_half() {
        assert_eq!(Part::High.write(0x1111_1111_2222_2222, 0x9_3333_3333), 0x3333_3333_2222_2222);
        assert_eq!(Part::Low.write(0x1111_1111_2222_2222, 0x9_3333_3333), 0x1111_1111_3333_3333);
        assert_eq!(Part::of(0x82, 4), None);
        assert_eq!(Part::of(0x84, 8), None);
        assert_eq!(Part::of(0x80, 1), None);
    }
}
