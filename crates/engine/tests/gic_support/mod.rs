//! A small arm64 VM whose interrupt controller is programmed by attributes alone, for the tests of that controller.
#![allow(dead_code, reason = "every test program uses its own part of this")]
#![allow(missing_docs, reason = "the names say it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

pub mod commands;
pub mod ram;

use std::collections::BTreeSet;

use ringmark_abi::{EnableCap, Errno, Vm as _, cap, mem};
use ringmark_dirty::{FLAG_DIRTY, SlotId};
use ringmark_engine::{
    Profile, System, Vcpu, Vm,
    gic::{Device, Msi, addr, ctrl, device_type, gicr, gits, group},
};

use commands::Command;
use ram::Ram;

pub const RAM: u64 = 0x4000_0000;
pub const PAGES: u64 = 2048;
/// Words of a bitmap of the only memslot.
pub const WORDS: usize = 2048 / 64;
pub const PAGE: u64 = 4096;
pub const SLOT: SlotId = SlotId::new(0, 0);

pub const LPI_CONFIG: u64 = RAM + 0x10_0000;
pub const DISTRIBUTOR: u64 = 0x0800_0000;
pub const REDISTRIBUTORS: u64 = 0x0810_0000;

pub const fn pending_table(vcpu: u32) -> u64 {
    RAM + 0x20_0000 + vcpu as u64 * 0x1_0000
}

/// Where the `n`th ITS and its tables are.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub frame: u64,
    pub queue: u64,
    pub devices: u64,
    pub collections: u64,
    pub itts: u64,
}

pub const fn places(its: usize) -> Places {
    let n = its as u64;
    let ram = RAM + n * 0x20_0000;
    Places {
        frame: 0x0a00_0000 + n * 0x2_0000,
        queue: ram + 0x30_0000,
        devices: ram + 0x40_0000,
        collections: ram + 0x42_0000,
        itts: ram + 0x43_0000,
    }
}

/// Page numbers of addresses in the only memslot.
pub fn pages(addresses: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    addresses.into_iter().map(|gpa| (gpa - RAM) / PAGE).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    Bitmap,
    Ring,
    RingWithBitmap,
}

/// A VM with memory, vCPUs, a VGIC and ITSs; nothing is programmed yet.
pub struct Rig {
    pub vm: Vm,
    pub vcpus: Vec<Vcpu>,
    pub vgic: Device,
    pub its: Vec<Device>,
    pub ram: Ram,
    queue_ends: Vec<u64>,
}

impl Rig {
    pub fn new(tracking: Tracking, vcpus: u32, its: usize) -> Self {
        let vm = System::new(Profile::arm64()).create_vm();
        if tracking != Tracking::Bitmap {
            vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, 1 << 20)).expect("rings");
        }
        if tracking == Tracking::RingWithBitmap {
            vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_WITH_BITMAP, 0)).expect("backup bitmap");
        }
        let ram = Ram::new(PAGES * PAGE);
        ram.add_to(&vm, SLOT, mem::LOG_DIRTY_PAGES, RAM).expect("memslot");
        let vcpus: Vec<_> = (0..vcpus).map(|id| vm.create_vcpu(id).expect("vCPU")).collect();
        let vgic = vm.create_device(device_type::ARM_VGIC_V3).expect("VGIC");
        let its: Vec<_> =
            (0..its).map(|_| vm.create_device(device_type::ARM_VGIC_ITS).expect("ITS")).collect();
        let queue_ends = vec![0; its.len()];
        Self { vm, vcpus, vgic, its, ram, queue_ends }
    }

    /// All LPIs enabled at priority 0xa0, all addresses set, VGIC initialised, LPIs enabled, every ITS enabled with direct tables.
    pub fn programmed(tracking: Tracking, vcpus: u32, its: usize) -> Self {
        let rig = Self::new(tracking, vcpus, its);
        rig.ram.poke(LPI_CONFIG, &[0xa1; 0xe000]);
        rig.place();
        rig.program_redistributors();
        for n in 0..its {
            rig.program_its(n, 0);
            rig.its_write(n, gits::CTLR, 1).expect("GITS_CTLR");
        }
        rig
    }

    pub fn place(&self) {
        self.vgic.set_attr(group::ADDR, addr::V3_DIST, DISTRIBUTOR).expect("distributor");
        self.vgic.set_attr(group::ADDR, addr::V3_REDIST, REDISTRIBUTORS).expect("redistributors");
        self.vgic.set_attr(group::CTRL, ctrl::INIT, 0).expect("INIT");
        for (n, its) in self.its.iter().enumerate() {
            its.set_attr(group::ADDR, addr::ITS, places(n).frame).expect("ITS address");
        }
    }

    pub fn program_redistributors(&self) {
        for vcpu in 0..u32::try_from(self.vcpus.len()).expect("few vCPUs") {
            self.gicr_write(vcpu, gicr::PROPBASER, LPI_CONFIG | 15);
            self.gicr_write(vcpu, gicr::PENDBASER, pending_table(vcpu));
            self.vgic.set_attr(group::REDIST_REGS, u64::from(vcpu) << 32, 1).expect("GICR_CTLR");
        }
    }

    pub fn gicr_write(&self, vcpu: u32, offset: u64, value: u64) {
        for (at, half) in [(offset, value & 0xffff_ffff), (offset + 4, value >> 32)] {
            self.vgic.set_attr(group::REDIST_REGS, u64::from(vcpu) << 32 | at, half).expect("GICR");
        }
    }

    /// Queue of 64 KiB and tables of 64 KiB each; `baser0` is added to the device table's register.
    pub fn program_its(&self, n: usize, baser0: u64) {
        let at = places(n);
        self.its_write(n, gits::CBASER, 1 << 63 | at.queue | 15).expect("GITS_CBASER");
        self.its_write(n, gits::BASER, 1 << 63 | at.devices | baser0).expect("GITS_BASER0");
        self.its_write(n, gits::BASER + 8, 1 << 63 | at.collections).expect("GITS_BASER1");
    }

    pub fn its_write(&self, n: usize, register: u64, value: u64) -> Result<(), Errno> {
        self.its[n].set_attr(group::ITS_REGS, register, value)
    }

    pub fn its_read(&self, n: usize, register: u64) -> Result<u64, Errno> {
        let mut value = 0;
        self.its[n].get_attr(group::ITS_REGS, register, &mut value).map(|()| value)
    }

    pub fn control(&self, n: usize, action: u64) -> Result<(), Errno> {
        self.its[n].set_attr(group::CTRL, action, 0)
    }

    pub fn save_tables(&self, n: usize) -> Result<(), Errno> {
        self.control(n, ctrl::ITS_SAVE_TABLES)
    }

    pub fn save_pending(&self) -> Result<(), Errno> {
        self.vgic.set_attr(group::CTRL, ctrl::SAVE_PENDING_TABLES, 0)
    }

    /// Puts commands into the queue; the new value for `GITS_CWRITER`.
    pub fn queue(&mut self, n: usize, commands: &[Command]) -> u64 {
        for command in commands {
            let at = places(n).queue + self.queue_ends[n];
            for (word, i) in command.iter().zip(0..) {
                self.ram.poke(at + i * 8, &word.to_le_bytes());
            }
            self.queue_ends[n] = (self.queue_ends[n] + 32) % 0x1_0000;
        }
        self.queue_ends[n]
    }

    /// Lets user space execute commands.
    pub fn run(&mut self, n: usize, commands: &[Command]) {
        // The queue is never filled entirely: then both ends would be equal.
        for some in commands.chunks(1000) {
            let end = self.queue(n, some);
            self.its_write(n, gits::CWRITER, end).expect("GITS_CWRITER");
            assert_eq!(self.its_read(n, gits::CREADR), Ok(end), "commands execute before the write returns");
        }
    }

    /// Lets the guest execute commands, by a store of its first vCPU.
    pub fn run_as_guest(&mut self, n: usize, commands: &[Command]) {
        let end = self.queue(n, commands);
        self.vcpus[0]
            .store(places(n).frame + gits::CWRITER, &end.to_le_bytes())
            .expect("a store to a device");
        assert_eq!(self.its_read(n, gits::CREADR), Ok(end));
    }

    pub fn signal(&self, n: usize, devid: u32, event: u32) -> Result<u32, Errno> {
        self.vm.signal_msi(&Msi {
            address: places(n).frame + gits::TRANSLATER,
            data: event,
            devid: Some(devid),
        })
    }

    /// `KVM_GET_DIRTY_LOG` as page numbers.
    pub fn collect(&self) -> BTreeSet<u64> {
        let mut words = vec![0; WORDS];
        self.vm.get_dirty_log(SLOT, &mut words).expect("KVM_GET_DIRTY_LOG");
        set_bits(&words)
    }

    /// Dirty entries in the ring of `vcpu`, as page numbers.
    pub fn ring(&self, vcpu: usize) -> Vec<u64> {
        let memory = self.vcpus[vcpu].ring_memory().expect("a ring");
        let dirty = memory.entries().iter().filter(|e| e.flags() == FLAG_DIRTY);
        dirty.map(|e| e.payload().1).collect()
    }

    pub fn entry(&self, gpa: u64) -> u64 {
        self.ram.peek(gpa)
    }
}

/// Registers that a restore needs, as a monitor saves them: the ITS's, in the order in which they are to be written.
pub fn save_registers(rig: &Rig, n: usize) -> Vec<(u64, u64)> {
    let order = [gits::CBASER, gits::BASER, gits::BASER + 8, gits::CREADR, gits::CWRITER, gits::IIDR];
    order.into_iter().map(|register| (register, rig.its_read(n, register).expect("a register"))).collect()
}

/// Restores one ITS by the documented order: registers but not `GITS_CTLR`, tables, `GITS_CTLR`.
pub fn restore_its(rig: &mut Rig, n: usize, registers: &[(u64, u64)]) -> Result<(), Errno> {
    for &(register, value) in registers {
        rig.its_write(n, register, value)?;
        if register == gits::CWRITER {
            rig.queue_ends[n] = value;
        }
    }
    rig.control(n, ctrl::ITS_RESTORE_TABLES)?;
    rig.its_write(n, gits::CTLR, 1)
}

pub fn set_bits(words: &[u64]) -> BTreeSet<u64> {
    let bits = words
        .iter()
        .zip(0u64..)
        .flat_map(|(word, i)| (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| i * 64 + bit));
    bits.collect()
}
