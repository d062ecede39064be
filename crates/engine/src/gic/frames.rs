//! Where the frames of distributor and redistributors lie in guest-physical memory.

use ringmark_abi::Errno;

use super::bits::{field, low16, mask};

/// Bytes of a frame, and what every frame's address is aligned to.
pub(super) const FRAME: u64 = 0x1_0000;
/// Bytes of a vCPU's redistributor: two frames.
const REDISTRIBUTOR: u64 = 2 * FRAME;

/// A run of redistributors.
#[derive(Clone, Copy, Debug)]
struct Region {
    base: u64,
    /// How many redistributors it has room for; none for the one region that grows with the vCPUs.
    count: Option<usize>,
}

impl Region {
    /// Bytes set aside for it.
    fn len(self, vcpus: usize) -> u64 {
        self.count.unwrap_or(vcpus) as u64 * REDISTRIBUTOR
    }
}

/// The frames that user space has placed.
#[derive(Debug, Default)]
pub(super) struct Frames {
    distributor: Option<u64>,
    regions: Vec<Region>,
}

/// Whether a device of `len` bytes may be placed at `base` (`vgic_check_iorange`).
///
/// # Errors
/// `EEXIST` if it has a place already, `EINVAL` if misaligned or wrapping, `E2BIG` if beyond `1 << ipa_bits`.
pub(super) fn check_place(placed: Option<u64>, base: u64, len: u64, ipa_bits: u32) -> Result<(), Errno> {
    if placed.is_some() {
        return Err(Errno::EEXIST);
    }
    if !base.is_multiple_of(FRAME) || !len.is_multiple_of(FRAME) {
        return Err(Errno::EINVAL);
    }
    let end = base.checked_add(len).ok_or(Errno::EINVAL)?;
    if end > 1 << ipa_bits || base >> ipa_bits != 0 { Err(Errno::E2BIG) } else { Ok(()) }
}

const fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}

impl Frames {
    /// The distributor's address.
    pub(super) fn distributor(&self) -> Option<u64> {
        self.distributor
    }

    /// Places the distributor.
    pub(super) fn set_distributor(&mut self, base: u64, ipa_bits: u32) -> Result<(), Errno> {
        check_place(self.distributor, base, FRAME, ipa_bits)?;
        self.distributor = Some(base);
        Ok(())
    }

    /// The address of the first region of redistributors.
    pub(super) fn first_region(&self) -> Option<u64> {
        self.regions.first().map(|r| r.base)
    }

    /// Region `index` as `KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION` packs it.
    pub(super) fn region(&self, index: u64) -> Option<u64> {
        let region = self.regions.get(usize::try_from(index).ok()?)?;
        Some((region.count.unwrap_or(0) as u64) << 52 | region.base | index)
    }

    /// Places the one region of all redistributors.
    pub(super) fn set_single_region(&mut self, base: u64, vcpus: usize, ipa_bits: u32) -> Result<(), Errno> {
        if let Some(last) = self.regions.last() {
            return Err(if last.count.is_some() { Errno::EINVAL } else { Errno::EEXIST });
        }
        self.add_region(Region { base, count: None }, vcpus, ipa_bits)
    }

    /// Places one of several regions, packed as `KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION` does.
    pub(super) fn set_region(&mut self, packed: u64, vcpus: usize, ipa_bits: u32) -> Result<(), Errno> {
        let (count, base, flags, index) = (
            usize::from(low16(packed >> 52)),
            packed & mask(51, 16),
            field(packed, 15, 12),
            field(packed, 11, 0),
        );
        if count == 0 || flags != 0 || self.regions.len() as u64 != index {
            return Err(Errno::EINVAL);
        }
        self.add_region(Region { base, count: Some(count) }, vcpus, ipa_bits)
    }

    /// `vgic_v3_alloc_redist_region`.
    fn add_region(&mut self, region: Region, vcpus: usize, ipa_bits: u32) -> Result<(), Errno> {
        let len = region.len(vcpus);
        region.base.checked_add(len).ok_or(Errno::EINVAL)?;
        let on_distributor = self.distributor.is_some_and(|d| overlap(d, FRAME, region.base, len));
        if on_distributor || self.regions.iter().any(|r| overlap(r.base, r.len(vcpus), region.base, len)) {
            return Err(Errno::EINVAL);
        }
        check_place(None, region.base, len, ipa_bits)?;
        self.regions.push(region);
        Ok(())
    }

    /// Whose redistributor holds `gpa`, of vCPUs with the ids `vcpus` in the order they were created: the vCPU, the
    /// offset, and whether it is the last one.
    pub(super) fn redistributor_at(&self, gpa: u64, vcpus: &[u32]) -> Option<(u32, u64, bool)> {
        let mut first = 0;
        for region in &self.regions {
            let rest = vcpus.get(first..).unwrap_or_default();
            let here = region.count.map_or(rest.len(), |c| rest.len().min(c));
            if gpa >= region.base && gpa - region.base < here as u64 * REDISTRIBUTOR {
                let place = gpa - region.base;
                let index = first + usize::try_from(place / REDISTRIBUTOR).ok()?;
                let last = index + 1 == first + here;
                return Some((*vcpus.get(index)?, place % REDISTRIBUTOR, last));
            }
            first += here;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_fill_in_order() {
        let mut frames = Frames::default();
        frames.set_region(2 << 52 | 0x10_0000, 3, 40).unwrap();
        frames.set_region(1 << 52 | 0x80_0000 | 1, 3, 40).unwrap();
        assert_eq!(frames.redistributor_at(0x12_0078, &[0, 4, 9]), Some((4, 0x78, true)));
        assert_eq!(frames.redistributor_at(0x80_0000, &[0, 4, 9]), Some((9, 0, true)));
        assert_eq!(frames.redistributor_at(0x14_0000, &[0, 4, 9]), None);
        assert_eq!(frames.set_single_region(0x90_0000, 3, 40), Err(Errno::EINVAL));
        assert_eq!(frames.set_region(1 << 52 | 0x80_0000 | 2, 3, 40), Err(Errno::EINVAL), "overlap");
        assert_eq!(frames.region(0), Some(2 << 52 | 0x10_0000));
    }
}
