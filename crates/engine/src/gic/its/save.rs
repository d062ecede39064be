//! `KVM_DEV_ARM_ITS_SAVE_TABLES`: what the ITS holds, into the tables in guest memory.
//!
//! By device in the order of DeviceIDs: its events in the order of EventIDs, then its entry in the device table. Last the
//! collections. Every entry is written whether or not it changes, so every save dirties the same pages; nothing else is
//! touched, because unmapping has zeroed the entries of what is gone. A save that fails has written what came before.

use ringmark_abi::Errno;

use super::{
    Its,
    devices::Device,
    entry::{CollectionEntry, DeviceEntry, ENTRY, EventEntry},
    registers::{VALID, table_address, table_len},
};
use crate::gic::{
    host::{Host, write_entry},
    rules::ItsRules,
};

impl Its {
    /// Saves all tables (`vgic_its_save_tables_v0`); nothing of a table whose `GITS_BASERn` is not valid.
    ///
    /// # Errors
    /// `EFAULT` for a translation or collection table outside guest memory; `EINVAL` for a device entry outside, by the
    /// older [`ItsRules`].
    pub(in crate::gic) fn save_tables(&self, host: &dyn Host, rules: ItsRules) -> Result<(), Errno> {
        if self.device_table & VALID != 0 {
            self.save_devices(host, rules)?;
        }
        if self.collection_table & VALID != 0 {
            self.save_collections(host)?;
        }
        Ok(())
    }

    fn save_devices(&self, host: &dyn Host, rules: ItsRules) -> Result<(), Errno> {
        let mut devices: Vec<_> = self
            .devices
            .iter()
            .map(|(id, device)| (id, device, self.device_entry_address(host, id)))
            .collect();
        if rules.save_skips_unaddressable {
            devices.retain(|(_, _, entry_at)| entry_at.is_some());
        }
        let ids_after = devices.iter().skip(1).map(|&(id, ..)| Some(id)).chain([None]).collect::<Vec<_>>();
        for ((id, device, entry_at), after) in devices.into_iter().zip(ids_after) {
            let entry_at = entry_at.ok_or(Errno::EINVAL)?;
            save_events(device, host)?;
            let next = after.map_or(0, |after| after - id);
            let entry = DeviceEntry { next, itt: device.itt, event_bits: device.event_bits };
            write_entry(host, entry_at, entry.pack())?;
        }
        Ok(())
    }

    fn save_collections(&self, host: &dyn Host) -> Result<(), Errno> {
        let mut at = table_address(self.collection_table);
        let end = at + table_len(self.collection_table);
        for (collection, target) in self.collections.in_order() {
            write_entry(host, at, CollectionEntry { collection, target }.pack())?;
            at += ENTRY;
        }
        // The reader stops at the first entry that is not valid.
        if at < end { write_entry(host, at, 0) } else { Ok(()) }
    }
}

/// `vgic_its_save_itt`. An event whose collection was unmapped leaves a zero entry: it cannot be restored.
fn save_events(device: &Device, host: &dyn Host) -> Result<(), Errno> {
    let ids_after = device.events.keys().skip(1).map(|&id| Some(id)).chain([None]);
    for ((&id, event), after) in device.events.iter().zip(ids_after) {
        let entry = event.collection.map_or(0, |collection| {
            let next = after.map_or(0, |after| after - id);
            EventEntry { next, lpi: event.lpi, collection }.pack()
        });
        let entry_at = device.entry_address(id).ok_or(Errno::EINVAL)?;
        write_entry(host, entry_at, entry)?;
    }
    Ok(())
}
