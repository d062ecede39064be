//! The interrupt translation service: (DeviceID, EventID) to an LPI at a vCPU.
//!
//! What an ITS knows it keeps in its own structures, as KVM does; guest memory is only brought up to date when tables
//! are saved, and when something is unmapped.

mod collections;
mod command;
mod commands;
mod devices;
mod entry;
mod lookup;
mod queue;
mod registers;
mod restore;
mod save;

use super::{distributor::Distributor, host::Host};
use collections::Collections;
use devices::Devices;

pub(super) use registers::{find as find_register, find_for_user as find_register_for_user};

/// DeviceIDs have 16 bits (`VITS_TYPER_DEVBITS`).
const MAX_DEVICE: u32 = 0xffff;
/// EventIDs have at most 16 bits (`VITS_TYPER_IDBITS`).
const MAX_EVENT_BITS: u32 = 16;

/// Bytes that an ITS takes in guest-physical memory (`KVM_VGIC_V3_ITS_SIZE`).
pub(super) const LEN: u64 = 0x2_0000;

/// One ITS.
#[derive(Debug)]
pub(super) struct Its {
    /// Where user space placed it.
    pub(super) base: Option<u64>,
    /// `GITS_CTLR.Enabled`.
    enabled: bool,
    /// `GITS_CBASER`.
    cbaser: u64,
    /// `GITS_CREADR`, a multiple of a command's size below the queue's.
    creadr: u64,
    /// `GITS_CWRITER`, likewise.
    cwriter: u64,
    /// `GITS_BASER0`.
    device_table: u64,
    /// `GITS_BASER1`.
    collection_table: u64,
    devices: Devices,
    collections: Collections,
}

/// Why an event raises no interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The ITS, or LPIs at the target, are not enabled.
    Disabled,
    /// The guest has not mapped the event to a vCPU.
    Unmapped,
}

impl Its {
    /// An ITS as `KVM_CREATE_DEVICE` makes it.
    pub(super) fn new() -> Self {
        Self {
            base: None,
            enabled: false,
            cbaser: 0,
            creadr: 0,
            cwriter: 0,
            device_table: registers::INITIAL_DEVICE_TABLE,
            collection_table: registers::INITIAL_COLLECTION_TABLE,
            devices: Devices::default(),
            collections: Collections::default(),
        }
    }

    /// `KVM_DEV_ARM_ITS_CTRL_RESET` (`vgic_its_reset`): everything but the ITS's address, the tables' addresses and the
    /// revision of their layouts.
    pub(super) fn reset(&mut self, distributor: &mut Distributor) {
        self.device_table &= !registers::VALID;
        self.collection_table &= !registers::VALID;
        self.cbaser = 0;
        self.creadr = 0;
        self.cwriter = 0;
        self.enabled = false;
        self.forget_devices(distributor);
        self.collections.clear();
    }

    /// Raises the LPI of an event (`vgic_its_trigger_msi`).
    ///
    /// # Errors
    /// See [`Blocked`].
    pub(super) fn trigger(
        &self,
        distributor: &mut Distributor,
        host: &dyn Host,
        device: u32,
        event: u32,
    ) -> Result<(), Blocked> {
        if !self.enabled {
            return Err(Blocked::Disabled);
        }
        let found = self.devices.event(device, event).ok_or(Blocked::Unmapped)?;
        let vcpu = self.target(found.collection).ok_or(Blocked::Unmapped)?;
        if !host.has_vcpu(vcpu) {
            return Err(Blocked::Unmapped);
        }
        if !distributor.lpis_enabled(vcpu) {
            return Err(Blocked::Disabled);
        }
        distributor.set_pending(found.lpi, true);
        Ok(())
    }

    /// The vCPU that a collection is mapped to.
    fn target(&self, collection: Option<u16>) -> Option<u32> {
        self.collections.target(collection?)
    }

    /// Unmaps all devices; guest memory keeps their entries (`vgic_its_free_device_list`).
    fn forget_devices(&mut self, distributor: &mut Distributor) {
        for lpi in self.devices.take_all() {
            distributor.put_lpi(lpi);
        }
    }

    /// Unmaps all collections; their events stay, without a collection (`vgic_its_free_collection_list`).
    fn forget_collections(&mut self) {
        self.collections.clear();
        self.devices.leave_collections(|_| true);
    }
}
