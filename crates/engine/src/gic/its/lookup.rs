//! Where in guest memory the entry of a device, a collection or an event lies.

use super::{
    Its, MAX_DEVICE,
    entry::{ENTRY, second_level},
    registers::{INDIRECT, table_address, table_len},
};
use crate::gic::host::{Host, read_entry};

/// Bytes of a page of the second level of a device table, and of the first.
pub(super) const TABLE_PAGE: u64 = 0x1_0000;
/// Entries in a page of the second level.
pub(super) const TABLE_PAGE_ENTRIES: u64 = TABLE_PAGE / ENTRY;

impl Its {
    /// The address of the entry of device `id`, if the device table has one in guest memory (`vgic_its_check_id`).
    pub(super) fn device_entry_address(&self, host: &dyn Host, id: u32) -> Option<u64> {
        if id > MAX_DEVICE {
            return None;
        }
        entry_address(host, self.device_table, id)
    }

    /// Whether the collection table has room for collection `id`; where its entry goes depends on the order instead.
    pub(super) fn collection_fits(&self, host: &dyn Host, id: u16) -> bool {
        entry_address(host, self.collection_table, u32::from(id)).is_some()
    }

    /// The address of the entry of an event, if its device is mapped and the translation table has one in guest memory
    /// (`vgic_its_check_event_id`).
    pub(super) fn event_entry_address(&self, host: &dyn Host, device: u32, event: u32) -> Option<u64> {
        self.devices.get(device)?.entry_address(event).filter(|&gpa| host.is_visible(gpa))
    }
}

fn entry_address(host: &dyn Host, table: u64, id: u32) -> Option<u64> {
    let id = u64::from(id);
    let gpa = if table & INDIRECT == 0 {
        (id * ENTRY < table_len(table)).then(|| table_address(table) + id * ENTRY)?
    } else {
        let first = id / TABLE_PAGE_ENTRIES * ENTRY;
        if first >= table_len(table) {
            return None;
        }
        let page = second_level(read_entry(host, table_address(table) + first).ok()?)?;
        page + id % TABLE_PAGE_ENTRIES * ENTRY
    };
    host.is_visible(gpa).then_some(gpa)
}
