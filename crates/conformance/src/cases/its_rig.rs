//! A VM with VGICv3 and ITS, programmed through device attributes alone: no guest code is needed.

use ringmark_abi::{Errno, mem};

use crate::bench::Bench;
use crate::cpu::Cpu;
use crate::rig::{Rig, Slot};
use crate::target::TestDevice;
use crate::verdict::{Must, Stop};

/// `KVM_DEV_TYPE_ARM_VGIC_V3`.
pub(super) const VGIC_V3: u32 = 7;
/// `KVM_DEV_TYPE_ARM_VGIC_ITS`.
pub(super) const ITS: u32 = 8;

/// Attribute groups (`KVM_DEV_ARM_VGIC_GRP_*`).
pub(super) mod group {
    pub(in super::super) const ADDR: u32 = 0;
    pub(in super::super) const CTRL: u32 = 4;
    pub(in super::super) const REDIST_REGS: u32 = 5;
    pub(in super::super) const ITS_REGS: u32 = 8;
}

/// Attributes of [`group::ADDR`] and [`group::CTRL`].
pub(super) mod attr {
    pub(in super::super) const DIST_ADDR: u64 = 2;
    pub(in super::super) const REDIST_ADDR: u64 = 3;
    pub(in super::super) const ITS_ADDR: u64 = 4;
    pub(in super::super) const INIT: u64 = 0;
    pub(in super::super) const SAVE_TABLES: u64 = 1;
    pub(in super::super) const RESTORE_TABLES: u64 = 2;
    pub(in super::super) const SAVE_PENDING: u64 = 3;
    pub(in super::super) const RESET: u64 = 4;
}

/// Registers of the ITS frame.
pub(super) mod reg {
    pub(in super::super) const CTLR: u64 = 0x0;
    pub(in super::super) const IIDR: u64 = 0x4;
    pub(in super::super) const CBASER: u64 = 0x80;
    pub(in super::super) const CWRITER: u64 = 0x88;
    pub(in super::super) const CREADR: u64 = 0x90;
    pub(in super::super) const BASER0: u64 = 0x100;
    pub(in super::super) const BASER1: u64 = 0x108;
    pub(in super::super) const TRANSLATER: u64 = 0x1_0040;
}

/// Frames in guest-physical memory.
pub(super) const DIST_BASE: u64 = 0x0800_0000;
pub(super) const REDIST_BASE: u64 = 0x080a_0000;
pub(super) const ITS_BASE: u64 = 0x0808_0000;
/// RAM, and what lies where in it (bytes from its start).
pub(super) const RAM_BASE: u64 = 0x4000_0000;
const RAM_BYTES: u64 = 0x40_0000;
const QUEUE: u64 = 0x10_0000;
pub(super) const DEVICE_TABLE: u64 = 0x11_0000;
pub(super) const COLLECTION_TABLE: u64 = 0x12_0000;
const PROPERTY_TABLE: u64 = 0x14_0000;
pub(super) const PENDING_TABLE: u64 = 0x15_0000;
/// Interrupt translation tables, a page apart at least.
pub(super) const ITTS: u64 = 0x18_0000;

pub(super) const VALID: u64 = 1 << 63;
/// Event bits of every device here.
const EVENT_BITS: u64 = 5;
/// The collection that everything here is routed by, to vCPU 0.
pub(super) const COLLECTION: u64 = 3;

/// The VM, its only vCPU, its RAM and its interrupt controller.
#[derive(Debug)]
pub(super) struct ItsRig {
    pub(super) rig: Rig,
    pub(super) cpu: Cpu,
    pub(super) ram: Slot,
    pub(super) vgic: Box<dyn TestDevice>,
    pub(super) its: Box<dyn TestDevice>,
    written: u64,
}

/// A command of the ITS, 32 bytes as four words.
pub(super) type Command = [u64; 4];

pub(super) fn mapd(device: u64, itt: Option<u64>) -> Command {
    let target = itt.map_or(0, |itt| VALID | (RAM_BASE + itt));
    [0x08 | device << 32, EVENT_BITS - 1, target, 0]
}

pub(super) fn mapc() -> Command {
    [0x09, 0, VALID | COLLECTION, 0]
}

pub(super) fn mapti(device: u64, event: u64, lpi: u64) -> Command {
    [0x0a | device << 32, event | lpi << 32, COLLECTION, 0]
}

pub(super) fn discard(device: u64, event: u64) -> Command {
    [0x0f | device << 32, event, 0, 0]
}

impl ItsRig {
    /// A VM with the bare devices: addresses set, VGIC initialised, nothing programmed.
    pub(super) fn bare(rig: Rig, flags: u32) -> Result<Self, Stop> {
        let pages = RAM_BYTES / rig.page_bytes();
        let ram = rig.slot(0, RAM_BASE / rig.page_bytes(), pages, flags)?;
        let cpu = rig.vcpu(0)?;
        let vgic = rig.vm().create_device(VGIC_V3)?.must("creating the VGICv3")?;
        vgic.set(group::ADDR, attr::DIST_ADDR, DIST_BASE).must("the distributor's address")?;
        vgic.set(group::ADDR, attr::REDIST_ADDR, REDIST_BASE).must("the redistributors' address")?;
        vgic.set(group::CTRL, attr::INIT, 0).must("initialising the VGICv3")?;
        let its = rig.vm().create_device(ITS)?.must("creating the ITS")?;
        its.set(group::ADDR, attr::ITS_ADDR, ITS_BASE).must("the ITS's address")?;
        its.set(group::CTRL, attr::INIT, 0).must("initialising the ITS")?;
        Ok(Self { rig, cpu, ram, vgic, its, written: 0 })
    }

    /// The same with tables, LPIs enabled and a collection, in a VM with rings and, if `bitmap`, the backup bitmap.
    pub(super) fn new(bench: &Bench, bitmap: bool) -> Result<Self, Stop> {
        let rig = if bitmap { bench.ring_with_bitmap(1024)? } else { bench.ring(1024)? };
        Self::programmed(rig, mem::LOG_DIRTY_PAGES)
    }

    pub(super) fn programmed(rig: Rig, flags: u32) -> Result<Self, Stop> {
        let mut this = Self::bare(rig, flags)?;
        this.program_redistributor()?;
        this.program_at(RAM_BASE + COLLECTION_TABLE)?;
        Ok(this)
    }

    /// Two devices with three events, as the ABI's example has them.
    pub(super) fn with_devices(bench: &Bench, bitmap: bool) -> Result<Self, Stop> {
        let mut this = Self::new(bench, bitmap)?;
        this.map_devices()?;
        Ok(this)
    }

    pub(super) fn map_devices(&mut self) -> Result<(), Stop> {
        self.command(&[
            mapd(5, Some(ITTS)),
            mapti(5, 7, 8192),
            mapd(600, Some(ITTS + 0x1_0000)),
            mapti(600, 1, 8200),
            mapti(600, 2, 8300),
        ])
    }

    /// The pages that `SAVE_TABLES` of [`with_devices`](Self::with_devices) writes.
    pub(super) fn table_pages(&self) -> Vec<u64> {
        let mut bytes =
            vec![DEVICE_TABLE + 5 * 8, DEVICE_TABLE + 600 * 8, COLLECTION_TABLE, ITTS, ITTS + 0x1_0000];
        bytes.iter_mut().for_each(|byte| *byte /= self.rig.page_bytes());
        bytes.dedup();
        bytes
    }

    /// The page of RAM that holds `byte`.
    pub(super) fn page(&self, byte: u64) -> u64 {
        byte / self.rig.page_bytes()
    }

    fn redistributor(&self, offset: u64, value: u64) -> Result<(), Stop> {
        self.vgic.set(group::REDIST_REGS, offset, value).must("a redistributor register")
    }

    pub(super) fn program_redistributor(&self) -> Result<(), Stop> {
        for (offset, value) in [(0x70, (RAM_BASE + PROPERTY_TABLE) | 15), (0x78, RAM_BASE + PENDING_TABLE)] {
            self.redistributor(offset, value & 0xffff_ffff)?;
            self.redistributor(offset + 4, value >> 32)?;
        }
        self.redistributor(0, 1)
    }

    pub(super) fn register(&self, register: u64, value: u64) -> Result<(), Errno> {
        self.its.set(group::ITS_REGS, register, value)
    }

    /// Queue, tables, the ITS switched on, and one collection, whose table is at `collections`.
    pub(super) fn program_at(&mut self, collections: u64) -> Result<(), Stop> {
        self.program_tables(collections)?;
        self.enable()?;
        self.command(&[mapc()])
    }

    /// A fresh queue, and the ITS switched on.
    pub(super) fn enable(&mut self) -> Result<(), Stop> {
        self.register(reg::CBASER, VALID | (RAM_BASE + QUEUE) | 15).must("GITS_CBASER")?;
        self.written = 0;
        self.register(reg::CTLR, 1).must("GITS_CTLR")
    }

    pub(super) fn program_tables(&self, collections: u64) -> Result<(), Stop> {
        self.register(reg::BASER0, VALID | (RAM_BASE + DEVICE_TABLE)).must("GITS_BASER0")?;
        self.register(reg::BASER1, VALID | collections).must("GITS_BASER1")
    }

    /// Puts commands into the queue, as a guest's driver or a test in user space does, without telling the ITS.
    pub(super) fn queue(&mut self, commands: &[Command]) -> u64 {
        for word in commands.iter().flatten() {
            self.ram.ram.write(QUEUE + self.written, *word);
            self.written += 8;
        }
        self.written
    }

    /// Has the ITS execute commands, by a register write of user space.
    pub(super) fn command(&mut self, commands: &[Command]) -> Result<(), Stop> {
        let end = self.queue(commands);
        self.register(reg::CWRITER, end).must("GITS_CWRITER")
    }

    pub(super) fn try_save(&self) -> Result<(), Errno> {
        self.its.set(group::CTRL, attr::SAVE_TABLES, 0)
    }

    pub(super) fn save(&self) -> Result<(), Stop> {
        self.try_save().must("ITS_SAVE_TABLES")
    }

    pub(super) fn try_save_pending(&self) -> Result<(), Errno> {
        self.vgic.set(group::CTRL, attr::SAVE_PENDING, 0)
    }

    pub(super) fn save_pending(&self) -> Result<(), Stop> {
        self.try_save_pending().must("SAVE_PENDING_TABLES")
    }

    /// Makes the interrupt of `device` and `event` pending.
    pub(super) fn pend(&self, device: u32, event: u32) -> Result<(), Stop> {
        let address = ITS_BASE + reg::TRANSLATER;
        self.rig.vm().signal_msi(address, device, event)?.map(drop).must("KVM_SIGNAL_MSI")
    }

    /// Reads the bitmap of RAM.
    pub(super) fn get(&self) -> Result<Vec<u64>, Stop> {
        self.rig.get(&self.ram)
    }

    /// Reads and discards the bitmap.
    pub(super) fn forget(&self) -> Result<(), Stop> {
        self.get().map(drop)
    }
}
