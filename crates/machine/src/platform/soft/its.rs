//! Interrupt translation services, programmed from user space: what writes guest memory with no vCPU running.

use ringmark_engine::Vm;
use ringmark_engine::gic::{Device, addr, ctrl, device_type, gicr, gits, group};
use ringmark_guest::{Config, FIRST_LPI, Interrupts, Memory};
use serde::{Deserialize, Serialize};

use super::commands::{Command, Source, mapc, mapd, mapti};
use super::frames;
use crate::config::MAX_TRANSLATORS;
use crate::layout::board;
use crate::platform::{PlatformError, Shape};
use crate::ram::Ram;
use crate::words::RamWords;

/// Bytes of a queue, as `GITS_CBASER` is programmed here.
pub(super) const QUEUE_BYTES: u64 = 64 << 10;
/// Bytes of a command in it.
pub(super) const COMMAND_BYTES: u64 = 32;
/// Bits of an LPI's number, less one, as PROPBASER has it.
const LPI_BITS: u64 = 15;
/// The configuration of eight LPIs: enabled.
const ENABLED: u64 = u64::from_le_bytes([0xa1; 8]);
const VALID: u64 = 1 << 63;

/// Registers of a translation service in the order in which they are put back: CBASER resets CREADR, CREADR belongs
/// before CWRITER, IIDR chooses the layout of the tables. CTLR, which switches on, comes after the tables.
const ITS_REGISTERS: [u64; 6] =
    [gits::CBASER, gits::BASER, gits::BASER + 8, gits::CREADR, gits::CWRITER, gits::IIDR];
/// Registers of a redistributor in the order in which they are put back: both bases are fixed once CTLR enables LPIs.
const REDISTRIBUTOR_REGISTERS: [u64; 3] = [gicr::PROPBASER, gicr::PENDBASER, gicr::CTLR];

/// Registers at a cut; the tables are in guest memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Registers {
    redistributors: Vec<[u64; REDISTRIBUTOR_REGISTERS.len()]>,
    its: Vec<ItsRegisters>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ItsRegisters {
    values: [u64; ITS_REGISTERS.len()],
    control: u64,
}

impl Registers {
    /// The shape of the machine that they are of.
    pub(super) fn shape(&self) -> Option<Shape> {
        let count = |length| u32::try_from(length).ok();
        let translators = count(self.its.len()).filter(|&its| its <= MAX_TRANSLATORS)?;
        Some(Shape { vcpus: count(self.redistributors.len())?, translators })
    }
}

/// A VGICv3 with translation services.
#[derive(Debug)]
pub(super) struct Its {
    vgic: Device,
    its: Vec<Device>,
    vcpus: u32,
}

fn refused(doing: &'static str) -> impl FnOnce(ringmark_abi::Errno) -> PlatformError {
    PlatformError::refused(doing)
}

impl Its {
    /// Creates the devices at their addresses, switched off.
    pub(super) fn create(vm: &Vm, shape: Shape) -> Result<Self, PlatformError> {
        let vgic = vm.create_device(device_type::ARM_VGIC_V3).map_err(refused("creating the VGIC"))?;
        vgic.set_attr(group::ADDR, addr::V3_DIST, frames::DISTRIBUTOR)
            .map_err(refused("placing the distributor"))?;
        vgic.set_attr(group::ADDR, addr::V3_REDIST, frames::REDISTRIBUTORS)
            .map_err(refused("placing the redistributors"))?;
        vgic.set_attr(group::CTRL, ctrl::INIT, 0).map_err(refused("completing the VGIC"))?;
        let its = (0..shape.translators).map(|index| {
            let its = vm.create_device(device_type::ARM_VGIC_ITS).map_err(refused("creating an ITS"))?;
            its.set_attr(group::ADDR, addr::ITS, frames::translator(index))
                .map_err(refused("placing an ITS"))?;
            Ok(its)
        });
        Ok(Self { vgic, its: its.collect::<Result<_, PlatformError>>()?, vcpus: shape.vcpus })
    }

    /// Does what a guest's driver does at its start: tables, LPIs, and a mapping for every event of every device.
    pub(super) fn program(
        &self,
        ram: &Ram,
        config: &Config,
        interrupts: &Interrupts,
    ) -> Result<(), PlatformError> {
        let mut words = RamWords(ram);
        let configuration = interrupts.configuration();
        for gpa in (configuration..configuration + interrupts.lpis()).step_by(8) {
            words.store(gpa, ENABLED).map_err(unwritten)?;
        }
        for vcpu in 0..self.vcpus {
            self.set_redistributor(vcpu, gicr::PROPBASER, configuration | LPI_BITS)?;
            self.set_redistributor(vcpu, gicr::PENDBASER, interrupts.pending_table(vcpu.into()))?;
            self.set_redistributor(vcpu, gicr::CTLR, 1)?;
        }
        for (index, its) in (0..).zip(&self.its) {
            // GITS_CBASER counts in 4 KiB, whatever the pages of guest and host are.
            let queue = interrupts.queue(index);
            set(its, gits::CBASER, VALID | queue | ((QUEUE_BYTES >> 12) - 1))?;
            set(its, gits::BASER, VALID | interrupts.device_table(index))?;
            set(its, gits::BASER + 8, VALID | interrupts.collection_table(index))?;
            set(its, gits::CTLR, 1)?;
            let mut at = 0;
            for command in first_commands(config, interrupts, index) {
                for (gpa, word) in (queue + at..).step_by(8).zip(command) {
                    words.store(gpa, word).map_err(unwritten)?;
                }
                at = (at + COMMAND_BYTES) % QUEUE_BYTES;
                // A full queue would look like an empty one.
                if at == QUEUE_BYTES / 2 || at == 0 {
                    set(its, gits::CWRITER, at)?;
                }
            }
            set(its, gits::CWRITER, at)?;
        }
        Ok(())
    }

    /// What the machine is made of.
    pub(super) fn shape(&self) -> Shape {
        Shape { vcpus: self.vcpus, translators: u32::try_from(self.its.len()).unwrap_or(u32::MAX) }
    }

    /// Writes pending and translation tables to guest memory and reads the registers.
    pub(super) fn save(&self) -> Result<Registers, PlatformError> {
        self.vgic
            .set_attr(group::CTRL, ctrl::SAVE_PENDING_TABLES, 0)
            .map_err(refused("saving the pending tables"))?;
        let its = self.its.iter().map(|its| {
            let mut values = [0; ITS_REGISTERS.len()];
            for (value, register) in values.iter_mut().zip(ITS_REGISTERS) {
                *value = get(its, register)?;
            }
            let control = get(its, gits::CTLR)?;
            its.set_attr(group::CTRL, ctrl::ITS_SAVE_TABLES, 0)
                .map_err(refused("saving the translation tables"))?;
            Ok(ItsRegisters { values, control })
        });
        let its = its.collect::<Result<_, PlatformError>>()?;
        let redistributors = (0..self.vcpus)
            .map(|vcpu| {
                let mut values = [0; REDISTRIBUTOR_REGISTERS.len()];
                for (value, register) in values.iter_mut().zip(REDISTRIBUTOR_REGISTERS) {
                    *value = self.redistributor(vcpu, register)?;
                }
                Ok(values)
            })
            .collect::<Result<_, PlatformError>>()?;
        Ok(Registers { redistributors, its })
    }

    /// Puts registers back and has the tables read, in the kernel's order (`arm-vgic-its.rst`).
    pub(super) fn restore(&self, saved: &Registers) -> Result<(), PlatformError> {
        for (vcpu, values) in (0..self.vcpus).zip(&saved.redistributors) {
            for (register, value) in REDISTRIBUTOR_REGISTERS.into_iter().zip(values) {
                self.set_redistributor(vcpu, register, *value)?;
            }
        }
        for (its, saved) in self.its.iter().zip(&saved.its) {
            for (register, value) in ITS_REGISTERS.into_iter().zip(saved.values) {
                set(its, register, value)?;
            }
            its.set_attr(group::CTRL, ctrl::ITS_RESTORE_TABLES, 0)
                .map_err(refused("restoring the translation tables"))?;
            set(its, gits::CTLR, saved.control)?;
        }
        Ok(())
    }

    /// A redistributor's registers are 32 bits wide at this interface; CTLR has one half, the bases two.
    fn halves(register: u64) -> u64 {
        if register == gicr::CTLR { 1 } else { 2 }
    }

    fn set_redistributor(&self, vcpu: u32, register: u64, value: u64) -> Result<(), PlatformError> {
        for half in 0..Self::halves(register) {
            let attr = u64::from(board::affinity(vcpu)) << 32 | (register + 4 * half);
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
            let attr = u64::from(board::affinity(vcpu)) << 32 | (register + 4 * half);
            let mut value = 0;
            self.vgic
                .get_attr(group::REDIST_REGS, attr, &mut value)
                .map_err(refused("reading a redistributor register"))?;
            whole |= (value & u64::from(u32::MAX)) << (32 * half);
        }
        Ok(whole)
    }
}

/// Commands that map everything of an ITS: a collection a vCPU, every event as the first of its two LPIs. The routes that
/// the guest's ledger has at its start, which is zero, say the same: all events go to the first vCPU.
fn first_commands(
    config: &Config,
    interrupts: &Interrupts,
    its: u64,
) -> impl Iterator<Item = Command> + use<> {
    let interrupts = *interrupts;
    let Interrupts { devices, events, .. } = interrupts;
    let collections = (0..config.writers).map(mapc);
    let all = (0..devices).flat_map(move |device| {
        let id = interrupts.device_id(its, device);
        let map = mapd(id, interrupts.translation_table(its, device));
        std::iter::once(map).chain((0..events).map(move |event| {
            let line = (its * devices + device) * events + event;
            mapti(Source { device: id, event }, FIRST_LPI + 2 * line, 0)
        }))
    });
    collections.chain(all)
}

fn set(its: &Device, register: u64, value: u64) -> Result<(), PlatformError> {
    its.set_attr(group::ITS_REGS, register, value).map_err(refused("setting an ITS register"))
}

fn get(its: &Device, register: u64) -> Result<u64, PlatformError> {
    let mut value = 0;
    its.get_attr(group::ITS_REGS, register, &mut value).map_err(refused("reading an ITS register"))?;
    Ok(value)
}

fn unwritten(error: vm_memory::GuestMemoryError) -> PlatformError {
    PlatformError::State { part: "the interrupt controller's tables".into(), what: error.to_string() }
}
