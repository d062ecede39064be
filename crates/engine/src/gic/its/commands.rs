//! What the commands do (`vgic_its_handle_command`).

use super::{
    Its, MAX_EVENT_BITS,
    command::{Command, number},
    devices::Event,
};
use crate::gic::{
    distributor::Distributor,
    host::{Host, write_entry},
    lpi,
};

/// A command that the ITS does not carry out. Why is nobody's to know: KVM reports no command errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl Its {
    pub(super) fn execute(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
        command: &Command,
    ) -> Result<(), Refused> {
        match command.number() {
            number::MAPD => self.map_device(distributor, host, command),
            number::MAPC => self.map_collection(distributor, host, command),
            number::MAPTI => self.map_event(distributor, host, command, command.lpi()),
            number::MAPI => self.map_event(distributor, host, command, command.event()),
            number::MOVI => self.move_event(distributor, command),
            number::DISCARD => self.discard(distributor, host, command),
            number::CLEAR => {
                let event = self.mapped(command)?;
                distributor.set_pending(event.lpi, false);
                Ok(())
            }
            number::INT => {
                self.trigger(distributor, host, command.device(), command.event()).map_err(|_| Refused)
            }
            number::INV => {
                let event = self.mapped(command)?;
                distributor.load_config(host, event.lpi).map_err(|_| Refused)
            }
            number::INVALL => {
                let vcpu = self.collections.target(command.collection()).ok_or(Refused)?;
                distributor.load_configs_of(host, vcpu);
                Ok(())
            }
            number::MOVALL => {
                let (from, to) = (command.vcpu(), command.other_vcpu());
                if !host.has_vcpu(from) || !host.has_vcpu(to) {
                    return Err(Refused);
                }
                distributor.route_all_lpis(from, to);
                Ok(())
            }
            // Everything is in step all the time.
            number::SYNC => Ok(()),
            _ => Err(Refused),
        }
    }

    fn mapped(&self, command: &Command) -> Result<Event, Refused> {
        self.devices.event(command.device(), command.event()).ok_or(Refused)
    }

    /// MAPD. Mapping a device that is mapped starts it anew; unmapping zeroes its table entry, mapped or not.
    fn map_device(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
        command: &Command,
    ) -> Result<(), Refused> {
        let device = command.device();
        let entry_at = self.device_entry_address(host, device).ok_or(Refused)?;
        if command.valid() && command.event_bits() > MAX_EVENT_BITS {
            return Err(Refused);
        }
        for lpi in self.devices.remove(device) {
            distributor.put_lpi(lpi);
        }
        if command.valid() {
            self.devices.insert(device, command.itt(), command.event_bits());
            Ok(())
        } else {
            write_entry(host, entry_at, 0).map_err(|_| Refused)
        }
    }

    /// MAPC. Unmapping leaves the collection's events without one.
    fn map_collection(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
        command: &Command,
    ) -> Result<(), Refused> {
        let (collection, vcpu) = (command.collection(), command.vcpu());
        if !command.valid() {
            if self.collections.remove(collection) {
                self.devices.leave_collections(|c| c == collection);
            }
            return Ok(());
        }
        if !host.has_vcpu(vcpu) {
            return Err(Refused);
        }
        if !self.collections.contains(collection) && !self.collection_fits(host, collection) {
            return Err(Refused);
        }
        self.collections.map(collection, Some(vcpu));
        for lpi in self.devices.lpis_in(collection) {
            distributor.route_lpi(lpi, vcpu);
        }
        Ok(())
    }

    /// MAPTI and MAPI. The collection may be mapped later; an event that is mapped stays as it is.
    fn map_event(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
        command: &Command,
        intid: u32,
    ) -> Result<(), Refused> {
        let (device, event, collection) = (command.device(), command.event(), command.collection());
        self.event_entry_address(host, device, event).ok_or(Refused)?;
        if !(lpi::FIRST..distributor.lpi_end()).contains(&intid) {
            return Err(Refused);
        }
        if self.devices.event(device, event).is_some() {
            return Ok(());
        }
        if !self.devices.has_room() {
            return Err(Refused);
        }
        let known = self.collections.contains(collection);
        if !known && !self.collection_fits(host, collection) {
            return Err(Refused);
        }
        distributor.add_lpi(host, intid, self.target(Some(collection))).map_err(|_| Refused)?;
        if !known {
            self.collections.map(collection, None);
        }
        self.devices.insert_event(device, event, Event { lpi: intid, collection: Some(collection) });
        Ok(())
    }

    /// MOVI.
    fn move_event(&mut self, distributor: &mut Distributor, command: &Command) -> Result<(), Refused> {
        let event = self.mapped(command)?;
        self.target(event.collection).ok_or(Refused)?;
        let vcpu = self.target(Some(command.collection())).ok_or(Refused)?;
        self.devices.move_event(command.device(), command.event(), command.collection());
        distributor.route_lpi(event.lpi, vcpu);
        Ok(())
    }

    /// DISCARD. The pending state goes with the event; the table entry becomes zero.
    fn discard(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
        command: &Command,
    ) -> Result<(), Refused> {
        let (device, id) = (command.device(), command.event());
        let event = self.mapped(command)?;
        self.target(event.collection).ok_or(Refused)?;
        let entry_at = self.devices.get(device).and_then(|d| d.entry_address(id)).ok_or(Refused)?;
        self.devices.remove_event(device, id);
        distributor.put_lpi(event.lpi);
        write_entry(host, entry_at, 0).map_err(|_| Refused)
    }
}
