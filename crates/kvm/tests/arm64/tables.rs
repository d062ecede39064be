//! What a driver sets up for an ITS, by attributes and writes to guest memory alone.

use ringmark_abi::mem;
use ringmark_kvm::gic::{Device, Msi, gicd, gicr, gits, group};

use crate::guest::*;

/// The memslot of the tables.
pub(crate) const TABLES: u16 = 2;
const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 2048;
const CONFIGURATION: u64 = BASE + 0x10_0000;
const VALID: u64 = 1 << 63;

/// The page of the table slot that holds `gpa`.
pub(crate) fn page(gpa: u64) -> u64 {
    (gpa - BASE) / PAGE
}

pub(crate) const fn pending_table(vcpu: u32) -> u64 {
    BASE + 0x20_0000 + vcpu as u64 * 0x1_0000
}

/// Where the tables of ITS `n` begin: its queue, device table, collection table and two translation tables.
const fn area(n: usize) -> u64 {
    BASE + 0x30_0000 + n as u64 * 0x20_0000
}

/// The pages that saving the tables of ITS `n` writes: two of devices, one of collections, two of translations.
pub(crate) fn saved_pages(n: usize) -> [u64; 5] {
    let at = area(n);
    [at + 0x10_0000, at + 0x10_1000, at + 0x12_0000, at + 0x13_0000, at + 0x13_1000].map(page)
}

/// The first LPI of ITS `n`.
pub(crate) fn first_lpi(n: usize) -> u32 {
    8192 + u32::try_from(n).unwrap() * 1000
}

pub(crate) fn msi(n: usize, devid: u32, data: u32) -> Msi {
    Msi { address: its_frame(n) + gits::TRANSLATER, data, devid: Some(devid) }
}

impl Guest {
    /// The memory of the tables, with every LPI enabled. Before the devices.
    pub(crate) fn add_tables(&mut self) {
        self.add_slot(TABLES, BASE, PAGES, mem::LOG_DIRTY_PAGES);
        self.memory(TABLES).copy_in(CONFIGURATION - BASE, &[0xa1; 0xe000]);
    }

    /// Each ITS maps event 7 of device 5 and events 1 and 2 of device 600, all through collection 3 to vCPU 0.
    pub(crate) fn program(&self, vgic: &Device, its: &[Device], vcpus: u32) {
        vgic.set_attr(group::DIST_REGS, gicd::CTLR.into(), 2).unwrap();
        for vcpu in 0..vcpus {
            for (offset, value) in
                [(gicr::PROPBASER, CONFIGURATION | 15), (gicr::PENDBASER, pending_table(vcpu))]
            {
                for (at, half) in [(offset, value & 0xffff_ffff), (offset + 4, value >> 32)] {
                    vgic.set_attr(group::REDIST_REGS, u64::from(vcpu) << 32 | at, half).unwrap();
                }
            }
            vgic.set_attr(group::REDIST_REGS, u64::from(vcpu) << 32 | gicr::CTLR, 1).unwrap();
        }
        for (n, its) in its.iter().enumerate() {
            let (at, lpi) = (area(n), u64::from(first_lpi(n)));
            let write = |register, value| its.set_attr(group::ITS_REGS, register, value).unwrap();
            write(gits::CBASER, VALID | at | 15);
            write(gits::BASER, VALID | (at + 0x10_0000));
            write(gits::BASER + 8, VALID | (at + 0x12_0000));
            write(gits::CTLR, 1);
            let commands = [
                [0x09, 0, VALID | 3],
                [0x08 | 5 << 32, 4, VALID | (at + 0x13_0000)],
                [0x08 | 600 << 32, 4, VALID | (at + 0x13_1000)],
                [0x0a | 5 << 32, 7 | lpi << 32, 3],
                [0x0a | 600 << 32, 1 | (lpi + 8) << 32, 3],
                [0x0a | 600 << 32, 2 | (lpi + 108) << 32, 3],
            ];
            self.execute(its, n, 0, &commands);
        }
    }

    /// Unmaps event 7 of device 5 of the first ITS and maps it again as it was. Once, after [`program`](Self::program).
    pub(crate) fn map_again(&self, its: &[Device]) {
        let lpi = u64::from(first_lpi(0));
        self.execute(&its[0], 0, 6, &[[0x0f | 5 << 32, 7, 0], [0x0a | 5 << 32, 7 | lpi << 32, 3]]);
    }

    /// Has ITS `n` execute `commands`, after `before` of them.
    fn execute(&self, its: &Device, n: usize, before: u64, commands: &[[u64; 3]]) {
        for (i, command) in (before..).zip(commands) {
            for (j, &word) in (0..).zip(command) {
                self.memory(TABLES).write(area(n) - BASE + i * 32 + j * 8, word);
            }
        }
        let end = (before + commands.len() as u64) * 32;
        its.set_attr(group::ITS_REGS, gits::CWRITER, end).unwrap();
        let mut done = 0;
        its.get_attr(group::ITS_REGS, gits::CREADR, &mut done).unwrap();
        assert_eq!(done, end);
    }
}

/// The words that saving the tables of the first ITS writes, by their addresses.
pub(crate) const SAVED: [(u64, u64); 7] = [
    (0x4040_0000 + 5 * 8, 0x84a6_0000_0808_6004),
    (0x4040_0000 + 600 * 8, 0x8000_0000_0808_6204),
    (0x4042_0000, 0x8000_0000_0000_0003),
    (0x4042_0008, 0),
    (0x4043_0000 + 7 * 8, 0x2000_0003),
    (0x4043_1000 + 8, 0x0001_0000_2008_0003),
    (0x4043_1000 + 2 * 8, 0x206c_0003),
];

pub(crate) const fn table_offset(gpa: u64) -> u64 {
    gpa - BASE
}
