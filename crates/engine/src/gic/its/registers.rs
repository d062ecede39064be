//! An ITS's registers, as the guest and as user space sees them.

use ringmark_abi::Errno;

use super::{Its, lookup::TABLE_PAGE};
use crate::gic::{
    bits::{MemoryAttributes, Part, field, mask},
    distributor::Distributor,
    gits,
    host::Host,
    rules::ItsRules,
};

/// Valid bit of `GITS_BASERn` and `GITS_CBASER`.
pub(super) const VALID: u64 = 1 << 63;
/// Bit of `GITS_BASERn`: the table has two levels.
pub(super) const INDIRECT: u64 = 1 << 62;

/// Fields of `GITS_BASERn` that describe the implementation: type and size of an entry.
const BASER_RO: u64 = mask(52, 48) | mask(58, 56);
const BASER_ATTRIBUTES: MemoryAttributes = MemoryAttributes { shareability: 10, inner: 59, outer: 53 };
const CBASER_ATTRIBUTES: MemoryAttributes = BASER_ATTRIBUTES;
/// Page size field of `GITS_BASERn`, and its only value, 64 KiB.
const BASER_PAGE_SIZE: u64 = mask(9, 8);
const BASER_PAGE_64K: u64 = 2 << 8;
/// Entries of 8 bytes, less 1, in the entry size field.
const BASER_ENTRY_8: u64 = 7 << 48;
const BASER_DEVICES: u64 = 1 << 56;
const BASER_COLLECTIONS: u64 = 4 << 56;
/// Inner shareable, inner write-back.
const BASER_INITIAL: u64 = 3 << 59 | 1 << 10 | BASER_PAGE_64K | BASER_ENTRY_8;

/// `GITS_BASER0` of a new ITS.
pub(super) const INITIAL_DEVICE_TABLE: u64 = BASER_INITIAL | BASER_DEVICES;
/// `GITS_BASER1` of a new ITS.
pub(super) const INITIAL_COLLECTION_TABLE: u64 = BASER_INITIAL | BASER_COLLECTIONS;

const CTLR_ENABLE: u64 = 1;
const CTLR_QUIESCENT: u64 = 1 << 31;
/// Product KVM ('K'), revision 0 of the table layouts, implementer Arm.
const IIDR: u64 = 0x4b00_043b;
/// Physical LPIs, entries of 8 bytes, 16 EventID bits, 16 DeviceID bits, vCPUs named by number.
const TYPER: u64 = 0x1_ef71;

/// The address of the table that `GITS_BASERn` names (`GITS_BASER_ADDR_48_to_52`).
pub(super) const fn table_address(baser: u64) -> u64 {
    (baser & mask(47, 16)) | field(baser, 15, 12) << 48
}

/// Bytes of the table that `GITS_BASERn` names, or of its first level.
pub(super) const fn table_len(baser: u64) -> u64 {
    (field(baser, 7, 0) + 1) * TABLE_PAGE
}

/// A register of the ITS's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gic) enum Register {
    Ctlr,
    Iidr,
    Typer,
    Cbaser,
    Cwriter,
    Creadr,
    Baser(u64),
    /// An identification register, by its offset.
    Id(u64),
}

/// The register that `offset` lies in, and whether it has 64 bits.
pub(in crate::gic) fn find(offset: u64) -> Option<(Register, bool)> {
    Some(match offset & !7 {
        gits::CTLR => (if offset & 4 == 0 { Register::Ctlr } else { Register::Iidr }, false),
        gits::TYPER => (Register::Typer, true),
        gits::CBASER => (Register::Cbaser, true),
        gits::CWRITER => (Register::Cwriter, true),
        gits::CREADR => (Register::Creadr, true),
        table if (gits::BASER..gits::BASER + 0x40).contains(&table) => {
            (Register::Baser((table - gits::BASER) / 8), true)
        }
        id if (gits::PIDR4..gits::PIDR4 + 0x30).contains(&id) => (Register::Id(offset & !3), false),
        _ => return None,
    })
}

/// The register that user space names by `offset`: 64-bit registers only as a whole.
///
/// # Errors
/// `EINVAL` for a misaligned offset, `ENXIO` for one without a register.
pub(in crate::gic) fn find_for_user(offset: u64) -> Result<Register, Errno> {
    let alignment = if (gits::TYPER..gits::PIDR4).contains(&offset) { 8 } else { 4 };
    if !offset.is_multiple_of(alignment) {
        return Err(Errno::EINVAL);
    }
    find(offset).map(|(register, _)| register).ok_or(Errno::ENXIO)
}

impl Its {
    /// Reads a register.
    pub(in crate::gic) fn read(&self, register: Register, part: Part) -> u64 {
        let whole = match register {
            Register::Ctlr => {
                let quiescent = if self.creadr == self.cwriter { CTLR_QUIESCENT } else { 0 };
                quiescent | u64::from(self.enabled)
            }
            Register::Iidr => IIDR,
            Register::Typer => TYPER,
            Register::Cbaser => self.cbaser,
            Register::Cwriter => self.cwriter,
            Register::Creadr => self.creadr,
            Register::Baser(0) => self.device_table,
            Register::Baser(1) => self.collection_table,
            Register::Baser(_) => 0,
            Register::Id(offset) => identification(offset),
        };
        part.read(whole)
    }

    /// Writes a register as the guest does, and as user space does where [`write_as_user`](Self::write_as_user) knows
    /// no difference.
    pub(in crate::gic) fn write(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
        rules: ItsRules,
        (register, part, value): (Register, Part, u64),
    ) {
        match register {
            Register::Ctlr => self.write_ctlr(distributor, host, value),
            Register::Cbaser if !self.enabled => {
                self.cbaser = CBASER_ATTRIBUTES.sanitise(part.write(self.cbaser, value)) & !mask(15, 12);
                self.creadr = 0;
                self.cwriter = 0;
            }
            Register::Cwriter => {
                let end = part.write(self.cwriter, value) & mask(19, 5);
                if end < self.queue_len() {
                    self.cwriter = end;
                    self.execute_queue(distributor, host);
                }
            }
            Register::Baser(0) if !self.enabled => {
                let old = self.device_table;
                self.device_table = baser_written(part.write(old, value), BASER_DEVICES);
                if drops_table(rules, old, self.device_table) {
                    self.forget_devices(distributor);
                }
            }
            Register::Baser(1) if !self.enabled => {
                let old = self.collection_table;
                self.collection_table = baser_written(part.write(old, value), BASER_COLLECTIONS) & !INDIRECT;
                if drops_table(rules, old, self.collection_table) {
                    self.forget_collections();
                }
            }
            _ => {}
        }
    }

    /// Writes a register by `KVM_SET_DEVICE_ATTR`.
    ///
    /// # Errors
    /// `GITS_IIDR`: `EINVAL` for a revision other than 0. `GITS_CREADR`: `EBUSY` while enabled, `EINVAL` beyond the
    /// queue.
    pub(in crate::gic) fn write_as_user(
        &mut self,
        distributor: &mut Distributor,
        host: &dyn Host,
        rules: ItsRules,
        (register, value): (Register, u64),
    ) -> Result<(), Errno> {
        match register {
            Register::Iidr if field(value, 15, 12) != 0 => Err(Errno::EINVAL),
            Register::Creadr if self.enabled => Err(Errno::EBUSY),
            Register::Creadr if value & mask(19, 5) >= self.queue_len() => Err(Errno::EINVAL),
            Register::Creadr => {
                self.creadr = value & mask(19, 5);
                Ok(())
            }
            _ => {
                self.write(distributor, host, rules, (register, Part::Whole, value));
                Ok(())
            }
        }
    }

    fn write_ctlr(&mut self, distributor: &mut Distributor, host: &dyn Host, value: u64) {
        let enable = value & CTLR_ENABLE != 0;
        let programmed =
            [self.device_table, self.collection_table, self.cbaser].iter().all(|r| r & VALID != 0);
        if enable && !self.enabled && !programmed {
            return;
        }
        self.enabled = enable;
        self.execute_queue(distributor, host);
    }
}

fn baser_written(written: u64, kind: u64) -> u64 {
    let kept = written & !BASER_RO & !BASER_PAGE_SIZE;
    BASER_ATTRIBUTES.sanitise(kept | BASER_ENTRY_8 | kind | BASER_PAGE_64K)
}

/// Whether writing `GITS_BASERn` makes the ITS forget what the table stands for.
fn drops_table(rules: ItsRules, old: u64, new: u64) -> bool {
    new & VALID == 0 || (rules.any_table_change_forgets && new != old)
}

/// The identification registers of an Arm ITS of architecture 3.
const fn identification(offset: u64) -> u64 {
    match offset {
        0xffe0 => 0x92,
        0xffe4 => 0xb4,
        0xffe8 => 0x3b,
        0xffd0 => 0x40,
        0xfff0 => 0x0d,
        0xfff4 => 0xf0,
        0xfff8 => 0x05,
        0xfffc => 0xb1,
        _ => 0,
    }
}
