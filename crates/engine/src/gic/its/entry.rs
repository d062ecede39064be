//! Table entries as guest memory holds them, revision 0 of the layouts: each 8 bytes, little endian.
//!
//! | entry | bits |
//! |---|---|
//! | device | 63 valid; 62:49 distance to the next device; 48:5 address of the translation table, bits 51:8; 4:0 EventID bits less 1 |
//! | collection | 63 valid; 51:16 vCPU; 15:0 collection |
//! | event | 63:48 distance to the next event; 47:16 LPI; 15:0 collection |
//! | first level of the device table | 63 valid; 51:16 address of the 64 KiB of the second level |
//!
//! A distance of 0 ends the list; a longer one than the field holds is cut, and the reader looks on from there.

use super::super::bits::{field, low16, low32, mask};

/// Bytes of an entry of any table.
pub(super) const ENTRY: u64 = 8;

/// The largest distance in a device entry (`VITS_DTE_MAX_DEVID_OFFSET`).
const MAX_DEVICE_DISTANCE: u32 = (1 << 14) - 1;
/// The largest distance in an event entry (`VITS_ITE_MAX_EVENTID_OFFSET`).
const MAX_EVENT_DISTANCE: u32 = (1 << 16) - 1;

const VALID: u64 = 1 << 63;
/// What stands for the vCPU of a collection that is not mapped (`COLLECTION_NOT_MAPPED`).
const NOT_MAPPED: u32 = u32::MAX;

/// Entry of the device table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceEntry {
    pub(super) next: u32,
    pub(super) itt: u64,
    /// 1 to 32; more than an ITS supports is the reader's to refuse.
    pub(super) event_bits: u32,
}

impl DeviceEntry {
    pub(super) fn pack(self) -> u64 {
        VALID
            | u64::from(self.next.min(MAX_DEVICE_DISTANCE)) << 49
            | field(self.itt, 51, 8) << 5
            | field(u64::from(self.event_bits.saturating_sub(1)), 4, 0)
    }

    pub(super) fn unpack(entry: u64) -> Option<Self> {
        (entry & VALID != 0).then(|| Self {
            next: low32(field(entry, 62, 49)),
            itt: field(entry, 48, 5) << 8,
            event_bits: low32(field(entry, 4, 0)) + 1,
        })
    }
}

/// Entry of the collection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CollectionEntry {
    pub(super) collection: u16,
    pub(super) target: Option<u32>,
}

impl CollectionEntry {
    pub(super) fn pack(self) -> u64 {
        VALID | u64::from(self.target.unwrap_or(NOT_MAPPED)) << 16 | u64::from(self.collection)
    }

    pub(super) fn unpack(entry: u64) -> Option<Self> {
        let target = low32(entry >> 16);
        (entry & VALID != 0)
            .then(|| Self { collection: low16(entry), target: (target != NOT_MAPPED).then_some(target) })
    }
}

/// Entry of an interrupt translation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventEntry {
    pub(super) next: u32,
    pub(super) lpi: u32,
    pub(super) collection: u16,
}

impl EventEntry {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.next.min(MAX_EVENT_DISTANCE)) << 48
            | u64::from(self.lpi) << 16
            | u64::from(self.collection)
    }

    pub(super) fn unpack(entry: u64) -> Option<Self> {
        let lpi = low32(field(entry, 47, 16));
        (lpi != 0).then(|| Self { next: low32(field(entry, 63, 48)), lpi, collection: low16(entry) })
    }
}

/// The address that an entry of the device table's first level gives for the second.
pub(super) fn second_level(entry: u64) -> Option<u64> {
    (entry & VALID != 0).then_some(entry & mask(51, 16))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_are_those_of_the_layout() {
        let first = DeviceEntry { next: 595, itt: 0x4043_0000, event_bits: 5 };
        assert_eq!(first.pack(), 0x84a6_0000_0808_6004);
        let last = DeviceEntry { next: 0, itt: 0x4043_1000, event_bits: 5 };
        assert_eq!(last.pack(), 0x8000_0000_0808_6204);
        assert_eq!(CollectionEntry { collection: 3, target: Some(0) }.pack(), 0x8000_0000_0000_0003);
        assert_eq!(EventEntry { next: 0, lpi: 8192, collection: 3 }.pack(), 0x2000_0003);
        assert_eq!(EventEntry { next: 1, lpi: 8200, collection: 3 }.pack(), 0x0001_0000_2008_0003);
        assert_eq!(EventEntry { next: 0, lpi: 8300, collection: 3 }.pack(), 0x206c_0003);
    }

    #[test]
    fn distances_are_cut_to_their_field() {
        let far = DeviceEntry { next: 60_000, itt: 0, event_bits: 1 };
        assert_eq!(DeviceEntry::unpack(far.pack()).map(|e| e.next), Some(16_383));
    }

    proptest! {
        #[test]
        fn unpacking_undoes_packing(
            next in 0u32..1 << 14, itt in (0u64..1 << 44).prop_map(|a| a << 8), event_bits in 1u32..=32,
            lpi in 1u32.., collection: u16, target in proptest::option::of(0u32..u32::MAX),
        ) {
            let device = DeviceEntry { next, itt, event_bits };
            prop_assert_eq!(DeviceEntry::unpack(device.pack()), Some(device));
            let event = EventEntry { next, lpi, collection };
            prop_assert_eq!(EventEntry::unpack(event.pack()), Some(event));
            let mapped = CollectionEntry { collection, target };
            prop_assert_eq!(CollectionEntry::unpack(mapped.pack()), Some(mapped));
        }
    }
}
