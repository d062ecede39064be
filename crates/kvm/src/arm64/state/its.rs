//! The registers of an ITS.

use ringmark_abi::Errno;
use serde::{Deserialize, Serialize};

use super::{Part, low_half};
use crate::StateError;
use crate::arm64::gic::{Device, addr, ctrl, gits, group};

/// In the order in which they are restored: setting the queue's address empties it, so what is in it comes after, and the
/// revision of the tables' layouts comes before the tables are read.
const REGISTERS: [u64; 12] = [
    gits::CBASER,
    gits::CREADR,
    gits::CWRITER,
    gits::BASER,
    gits::BASER + 8,
    gits::BASER + 16,
    gits::BASER + 24,
    gits::BASER + 32,
    gits::BASER + 40,
    gits::BASER + 48,
    gits::BASER + 56,
    gits::IIDR,
];

/// The registers of an ITS; what it translates is in guest memory once its tables are saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItsState {
    /// Where it lies.
    pub address: u64,
    /// Its registers but the last to be restored, each with its offset, in the order in which they are restored.
    pub registers: Vec<(u32, u64)>,
    /// `GITS_CTLR`, which starts it.
    pub control: u64,
}

impl ItsState {
    pub(super) fn save(its: &Device, index: u32) -> Result<Self, StateError> {
        let read = |offset: u64| {
            let mut value = 0;
            let part = register(index, offset);
            let got = its.get_attr(group::ITS_REGS, offset, &mut value);
            got.map(|()| value).map_err(|errno| StateError::Save { part, errno })
        };
        let address =
            place(its).map_err(|errno| StateError::Save { part: Part::ItsAddress(index), errno })?;
        let address =
            address.ok_or(StateError::Save { part: Part::ItsAddress(index), errno: Errno::ENXIO })?;
        let registers = REGISTERS.into_iter().map(|offset| {
            let value = read(offset)?;
            Ok((low_half(offset), value))
        });
        let registers = registers.collect::<Result<_, _>>()?;
        Ok(Self { address, registers, control: read(gits::CTLR)? })
    }

    /// Sets the registers and has the tables read, which writes guest memory: pending bits are consumed.
    pub(super) fn restore(&self, its: &Device, index: u32) -> Result<(), StateError> {
        let failed = |part| move |errno| StateError::Restore { part, errno };
        if !self.registers.iter().map(|&(offset, _)| u64::from(offset)).eq(REGISTERS) {
            return Err(StateError::Restore { part: Part::Its(index), errno: Errno::EINVAL });
        }
        let placed = place(its).map_err(failed(Part::ItsAddress(index)))?;
        if placed != Some(self.address) {
            // One that lies elsewhere cannot be moved, and the kernel says so.
            its.set_attr(group::ADDR, addr::ITS, self.address).map_err(failed(Part::ItsAddress(index)))?;
        }
        let write = |offset: u64, value: u64| {
            its.set_attr(group::ITS_REGS, offset, value).map_err(failed(register(index, offset)))
        };
        for &(offset, value) in &self.registers {
            write(offset.into(), value)?;
        }
        its.set_attr(group::CTRL, ctrl::ITS_RESTORE_TABLES, 0).map_err(failed(Part::ItsTables(index)))?;
        write(gits::CTLR, self.control)
    }
}

/// Where the ITS lies, if anywhere yet.
fn place(its: &Device) -> Result<Option<u64>, Errno> {
    let mut address = addr::UNDEFINED;
    its.get_attr(group::ADDR, addr::ITS, &mut address)?;
    Ok((address != addr::UNDEFINED).then_some(address))
}

fn register(its: u32, offset: u64) -> Part {
    Part::ItsRegister { its, offset: low_half(offset) }
}
