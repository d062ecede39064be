//! An interrupt translation service, programmed from user space: what writes guest memory with no vCPU running.

use ringmark_engine::Vm;
use ringmark_engine::gic::{Device, Msi, addr, ctrl, device_type, gicr, gits, group};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use crate::layout::GAP_START;
use crate::platform::PlatformError;
use crate::ram::Ram;

/// Frames of the controller, in the hole below 4 GiB: distributor, redistributors, translation service.
const DISTRIBUTOR: u64 = GAP_START;
const REDISTRIBUTORS: u64 = GAP_START + 0x100_0000;
const TRANSLATION: u64 = GAP_START + 0x200_0000;
/// The unit of every table's size and place.
const UNIT: u64 = 64 << 10;

/// Devices that are mapped, and events of each.
const DEVICES: u64 = 32;
const EVENTS: u64 = 8;
/// Bits of an EventID, less one: 32 entries of 8 bytes a device.
const EVENT_BITS: u64 = 5;
const DEVICE_TABLE_BYTES: u64 = 8 << EVENT_BITS;
/// The first LPI.
const FIRST_LPI: u64 = 8192;
/// Bits of an LPI's number, less one, as PROPBASER has it.
const LPI_BITS: u64 = 15;

const VALID: u64 = 1 << 63;
const MAPC: u64 = 0x09;
const MAPD: u64 = 0x08;
const MAPTI: u64 = 0x0a;

/// Registers of the translation service in the order in which they are put back: CBASER resets CREADR, CREADR belongs
/// before CWRITER, IIDR chooses the layout of the tables. CTLR, which switches on, comes after the tables.
const ITS_REGISTERS: [u64; 6] =
    [gits::CBASER, gits::BASER, gits::BASER + 8, gits::CREADR, gits::CWRITER, gits::IIDR];
/// Registers of a redistributor in the order in which they are put back: both bases are fixed once CTLR enables LPIs.
const REDISTRIBUTOR_REGISTERS: [u64; 3] = [gicr::PROPBASER, gicr::PENDBASER, gicr::CTLR];

/// Where the tables lie: at the end of low memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    start: u64,
}

impl Places {
    /// Bytes that all tables take: configuration, queue, devices, collections, translation entries, and a pending table a
    /// vCPU; one unit more, since they start at a multiple of it.
    pub(super) fn bytes(vcpus: u32) -> u64 {
        (6 + u64::from(vcpus)) * UNIT
    }

    fn new(ram: &Ram, vcpus: u32) -> Self {
        let end = ram.layout().ranges().next().map_or(0, |(_, start, size)| start + size);
        Self { start: end.saturating_sub(Self::bytes(vcpus)).next_multiple_of(UNIT) }
    }

    fn unit(self, index: u64) -> u64 {
        self.start + index * UNIT
    }

    fn configuration(self) -> u64 {
        self.unit(0)
    }

    fn queue(self) -> u64 {
        self.unit(1)
    }

    fn devices(self) -> u64 {
        self.unit(2)
    }

    fn collections(self) -> u64 {
        self.unit(3)
    }

    fn translations(self, device: u64) -> u64 {
        self.unit(4) + device * DEVICE_TABLE_BYTES
    }

    fn pending(self, vcpu: u32) -> u64 {
        self.unit(5 + u64::from(vcpu))
    }
}

/// Registers at a cut; the tables are in guest memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Registers {
    redistributors: Vec<[u64; REDISTRIBUTOR_REGISTERS.len()]>,
    its: [u64; ITS_REGISTERS.len()],
    its_control: u64,
}

/// A VGICv3 with one translation service.
#[derive(Debug)]
pub(super) struct Its {
    vm: Vm,
    vgic: Device,
    its: Device,
    places: Places,
    vcpus: u32,
}

fn refused(doing: &'static str) -> impl FnOnce(ringmark_abi::Errno) -> PlatformError {
    PlatformError::refused(doing)
}

impl Its {
    /// Creates both devices at their addresses, switched off.
    pub(super) fn create(vm: &Vm, ram: &Ram, vcpus: u32) -> Result<Self, PlatformError> {
        let vgic = vm.create_device(device_type::ARM_VGIC_V3).map_err(refused("creating the VGIC"))?;
        vgic.set_attr(group::ADDR, addr::V3_DIST, DISTRIBUTOR).map_err(refused("placing the distributor"))?;
        vgic.set_attr(group::ADDR, addr::V3_REDIST, REDISTRIBUTORS)
            .map_err(refused("placing the redistributors"))?;
        vgic.set_attr(group::CTRL, ctrl::INIT, 0).map_err(refused("completing the VGIC"))?;
        let its = vm.create_device(device_type::ARM_VGIC_ITS).map_err(refused("creating the ITS"))?;
        its.set_attr(group::ADDR, addr::ITS, TRANSLATION).map_err(refused("placing the ITS"))?;
        Ok(Self { vm: vm.clone(), vgic, its, places: Places::new(ram, vcpus), vcpus })
    }

    /// Does what a guest's driver does: tables, LPIs, and a mapping for every event of every device.
    pub(super) fn program(&mut self, ram: &Ram) -> Result<(), PlatformError> {
        let places = self.places;
        let enabled = vec![1_u8; usize::try_from(DEVICES * EVENTS).unwrap_or(usize::MAX)];
        write(ram, places.configuration(), &enabled)?;
        for vcpu in 0..self.vcpus {
            self.set_redistributor(vcpu, gicr::PROPBASER, places.configuration() | LPI_BITS)?;
            self.set_redistributor(vcpu, gicr::PENDBASER, places.pending(vcpu))?;
            self.set_redistributor(vcpu, gicr::CTLR, 1)?;
        }
        // GITS_CBASER counts in 4 KiB, whatever the pages of guest and host are.
        let queue_pages = (UNIT >> 12) - 1;
        self.set_its(gits::CBASER, VALID | places.queue() | queue_pages)?;
        self.set_its(gits::BASER, VALID | places.devices())?;
        self.set_its(gits::BASER + 8, VALID | places.collections())?;
        self.set_its(gits::CTLR, 1)?;

        let commands: Vec<u8> = self.commands().flatten().flat_map(u64::to_le_bytes).collect();
        write(ram, places.queue(), &commands)?;
        self.set_its(gits::CWRITER, commands.len() as u64)?;

        // One interrupt that nobody takes, so that the pending tables have something to hold.
        let msi = Msi { address: TRANSLATION + gits::TRANSLATER, data: 0, devid: Some(0) };
        self.vm.signal_msi(&msi).map_err(refused("raising an interrupt")).map(drop)
    }

    fn commands(&self) -> impl Iterator<Item = [u64; 4]> + use<> {
        let (places, vcpus) = (self.places, u64::from(self.vcpus));
        let collections = (0..vcpus).map(|vcpu| [MAPC, 0, VALID | vcpu << 16 | vcpu, 0]);
        let devices = (0..DEVICES).flat_map(move |device| {
            let map_device = [MAPD | device << 32, EVENT_BITS - 1, VALID | places.translations(device), 0];
            let map_events = (0..EVENTS).map(move |event| {
                let lpi = FIRST_LPI + device * EVENTS + event;
                [MAPTI | device << 32, event | lpi << 32, device % vcpus, 0]
            });
            std::iter::once(map_device).chain(map_events)
        });
        collections.chain(devices)
    }

    /// Writes pending and translation tables to guest memory and reads the registers.
    pub(super) fn save(&self) -> Result<Registers, PlatformError> {
        self.vgic
            .set_attr(group::CTRL, ctrl::SAVE_PENDING_TABLES, 0)
            .map_err(refused("saving the pending tables"))?;
        let mut its = [0; ITS_REGISTERS.len()];
        for (value, register) in its.iter_mut().zip(ITS_REGISTERS) {
            *value = self.get_its(register)?;
        }
        let its_control = self.get_its(gits::CTLR)?;
        self.its
            .set_attr(group::CTRL, ctrl::ITS_SAVE_TABLES, 0)
            .map_err(refused("saving the translation tables"))?;
        let redistributors = (0..self.vcpus)
            .map(|vcpu| {
                let mut values = [0; REDISTRIBUTOR_REGISTERS.len()];
                for (value, register) in values.iter_mut().zip(REDISTRIBUTOR_REGISTERS) {
                    *value = self.redistributor(vcpu, register)?;
                }
                Ok(values)
            })
            .collect::<Result<_, PlatformError>>()?;
        Ok(Registers { redistributors, its, its_control })
    }

    /// Puts registers back and has the tables read, in the kernel's order (`arm-vgic-its.rst`).
    pub(super) fn restore(&self, saved: &Registers) -> Result<(), PlatformError> {
        for (vcpu, values) in (0..self.vcpus).zip(&saved.redistributors) {
            for (register, value) in REDISTRIBUTOR_REGISTERS.into_iter().zip(values) {
                self.set_redistributor(vcpu, register, *value)?;
            }
        }
        for (register, value) in ITS_REGISTERS.into_iter().zip(saved.its) {
            self.set_its(register, value)?;
        }
        self.its
            .set_attr(group::CTRL, ctrl::ITS_RESTORE_TABLES, 0)
            .map_err(refused("restoring the translation tables"))?;
        self.set_its(gits::CTLR, saved.its_control)
    }

    fn set_its(&self, register: u64, value: u64) -> Result<(), PlatformError> {
        self.its.set_attr(group::ITS_REGS, register, value).map_err(refused("setting an ITS register"))
    }

    fn get_its(&self, register: u64) -> Result<u64, PlatformError> {
        let mut value = 0;
        self.its
            .get_attr(group::ITS_REGS, register, &mut value)
            .map_err(refused("reading an ITS register"))?;
        Ok(value)
    }

    /// A redistributor's registers are 32 bits wide at this interface; CTLR has one half, the bases two.
    fn halves(register: u64) -> u64 {
        if register == gicr::CTLR { 1 } else { 2 }
    }

    fn set_redistributor(&self, vcpu: u32, register: u64, value: u64) -> Result<(), PlatformError> {
        for half in 0..Self::halves(register) {
            let attr = affinity(vcpu) << 32 | (register + 4 * half);
            let value = value >> (32 * half) & u64::from(u32::MAX);
            self.vgic
                .set_attr(group::REDIST_REGS, attr, value)
                .map_err(refused("setting a redistributor register"))?;
        }
        Ok(())
    }

    fn redistributor(&self, vcpu: u32, register: u64) -> Result<u64, PlatformError> {
        let mut whole = 0;
        for half in 0..Self::halves(register) {
            let attr = affinity(vcpu) << 32 | (register + 4 * half);
            let mut value = 0;
            self.vgic
                .get_attr(group::REDIST_REGS, attr, &mut value)
                .map_err(refused("reading a redistributor register"))?;
            whole |= (value & u64::from(u32::MAX)) << (32 * half);
        }
        Ok(whole)
    }
}

/// The affinity of a vCPU as KVM gives it: 16 vCPUs a cluster (`reset_mpidr`).
fn affinity(vcpu: u32) -> u64 {
    u64::from(vcpu & 0xf | (vcpu >> 4) << 8)
}

fn write(ram: &Ram, address: u64, bytes: &[u8]) -> Result<(), PlatformError> {
    ram.guest().write_slice(bytes, GuestAddress(address)).map_err(|error| PlatformError::State {
        part: "the interrupt controller's tables".into(),
        what: error.to_string(),
    })
}
