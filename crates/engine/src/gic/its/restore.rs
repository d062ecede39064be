//! `KVM_DEV_ARM_ITS_RESTORE_TABLES`: the tables in guest memory, into the ITS.
//!
//! Guest memory is the guest's: every entry is checked, and the number of entries looked at is bounded, so that tables
//! that lie over one another cannot keep the caller busy for hours.

use ringmark_abi::Errno;

use super::{
    Its, MAX_EVENT_BITS,
    devices::Event,
    entry::{CollectionEntry, DeviceEntry, ENTRY, EventEntry, second_level},
    lookup::{TABLE_PAGE, TABLE_PAGE_ENTRIES},
    registers::{INDIRECT, VALID, table_address, table_len},
};
use crate::gic::{
    distributor::Distributor,
    host::{Host, read_entry},
    lpi,
};

/// Entries of device and translation tables that one restore looks at before it gives up with `EINVAL`: 128 MiB of them.
/// KVM has no such bound.
const MAX_ENTRIES: u32 = 1 << 24;

/// How a scan of a table ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    /// At the entry that says it is the last one.
    Complete,
    /// At the end of the table.
    EndOfTable,
}

/// One restore under way.
struct Restore<'a> {
    its: &'a mut Its,
    distributor: &'a mut Distributor,
    host: &'a dyn Host,
    entries_left: u32,
}

impl Its {
    /// Restores all tables (`vgic_its_restore_tables_v0`): collections, then devices and their events. Restored LPIs take
    /// their pending bits out of the pending tables, which dirties these.
    ///
    /// After an error the collections are gone, and the devices too unless it was the collection table that failed.
    ///
    /// # Errors
    /// `EEXIST` for a collection that is there already (a second restore); `EINVAL` for an entry that cannot be;
    /// `EFAULT` for a table outside guest memory.
    pub(in crate::gic) fn restore_tables(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
    ) -> Result<(), Errno> {
        if self.collection_table & VALID != 0 {
            self.restore_collections(host).inspect_err(|_| self.forget_collections())?;
        }
        if self.device_table & VALID != 0 {
            let restored =
                Restore { its: &mut *self, distributor: &mut *distributor, host, entries_left: MAX_ENTRIES }
                    .devices();
            if restored.is_err() {
                self.forget_devices(distributor);
                self.forget_collections();
            }
            return restored;
        }
        Ok(())
    }

    fn restore_collections(&mut self, host: &dyn Host) -> Result<(), Errno> {
        let start = table_address(self.collection_table);
        // No id occurs twice, so this ends after 65,536 entries however long the table is.
        for at in (start..start + table_len(self.collection_table)).step_by(8) {
            let Some(entry) = CollectionEntry::unpack(read_entry(host, at)?) else { return Ok(()) };
            if entry.target.is_some_and(|vcpu| !host.has_vcpu(vcpu)) {
                return Err(Errno::EINVAL);
            }
            if self.collections.contains(entry.collection) {
                return Err(Errno::EEXIST);
            }
            if !self.collection_fits(host, entry.collection) {
                return Err(Errno::EINVAL);
            }
            self.collections.map(entry.collection, entry.target);
        }
        Ok(())
    }
}

impl Restore<'_> {
    /// `vgic_its_restore_device_tables`.
    fn devices(&mut self) -> Result<(), Errno> {
        let table = self.its.device_table;
        let (start, len) = (table_address(table), table_len(table));
        if table & INDIRECT == 0 {
            self.scan(start, len, 0, Self::device)?;
            return Ok(());
        }
        for index in 0..len / ENTRY {
            let Some(page) = second_level(self.entry(start + index * ENTRY)?) else { continue };
            if self.scan(page, TABLE_PAGE, index * TABLE_PAGE_ENTRIES, Self::device)? == Scan::Complete {
                break;
            }
        }
        Ok(())
    }

    fn entry(&mut self, gpa: u64) -> Result<u64, Errno> {
        self.entries_left = self.entries_left.checked_sub(1).ok_or(Errno::EINVAL)?;
        read_entry(self.host, gpa)
    }

    /// Hands the entries of a table to `each`, which says how far the next one is; 0 ends (`scan_its_table`).
    fn scan(
        &mut self,
        start: u64,
        len: u64,
        first_id: u64,
        mut each: impl FnMut(&mut Self, u32, u64) -> Result<u32, Errno>,
    ) -> Result<Scan, Errno> {
        let mut index = 0;
        while index * ENTRY < len {
            let entry = self.entry(start + index * ENTRY)?;
            let id = u32::try_from(first_id + index).unwrap_or(u32::MAX);
            match each(self, id, entry)? {
                0 => return Ok(Scan::Complete),
                distance => index += u64::from(distance),
            }
        }
        Ok(Scan::EndOfTable)
    }

    /// `vgic_its_restore_dte`.
    fn device(&mut self, id: u32, entry: u64) -> Result<u32, Errno> {
        let Some(entry) = DeviceEntry::unpack(entry) else { return Ok(1) };
        if entry.event_bits > MAX_EVENT_BITS || self.its.device_entry_address(self.host, id).is_none() {
            return Err(Errno::EINVAL);
        }
        // KVM would list a device twice that is mapped already, and never find the second.
        for lpi in self.its.devices.remove(id) {
            self.distributor.put_lpi(lpi);
        }
        self.its.devices.insert(id, entry.itt, entry.event_bits);
        self.scan(entry.itt, ENTRY << entry.event_bits, 0, |restore, event, translation| {
            restore.event(id, entry.event_bits, event, translation)
        })?;
        Ok(entry.next)
    }

    /// `vgic_its_restore_ite`.
    fn event(&mut self, device: u32, event_bits: u32, id: u32, entry: u64) -> Result<u32, Errno> {
        let Some(entry) = EventEntry::unpack(entry) else { return Ok(1) };
        if !(lpi::FIRST..lpi::END).contains(&entry.lpi)
            || id + entry.next >= 1 << event_bits
            || !self.its.collections.contains(entry.collection)
            || self.its.event_entry_address(self.host, device, id).is_none()
            || !self.its.devices.has_room()
        {
            return Err(Errno::EINVAL);
        }
        self.distributor.add_lpi(self.host, entry.lpi, self.its.target(Some(entry.collection)))?;
        self.its.devices.insert_event(
            device,
            id,
            Event { lpi: entry.lpi, collection: Some(entry.collection) },
        );
        Ok(entry.next)
    }
}
