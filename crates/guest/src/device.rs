//! The device page: what the monitor itself writes into guest memory, as a device would.
//!
//! | offset | word |
//! |---|---|
//! | 0x00 | sequence number of the newest record |
//! | 0x40, 0x48, 0x50 | newest record of even sequence: sequence, timestamp, checksum |
//! | 0x80, 0x88, 0x90 | newest record of odd sequence |
//!
//! A record is complete before its sequence number appears at 0x00, and is overwritten only two records later: the page
//! is whole at every instant, and a reader that finds the number unchanged has read a whole record.

use crate::config::Config;
use crate::memory::{Load, Memory};
use crate::random::checksum;

/// A record on the device page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Counts records from one.
    pub sequence: u64,
    /// The monitor's clock; the unit is the monitor's.
    pub timestamp: u64,
}

/// What a reader finds on the device page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DevicePage {
    /// The newest record; all zero where none was ever written.
    Whole(DeviceRecord),
    /// A record that does not fit its checksum.
    Corrupt { expected: u64, seen: u64 },
}

/// Writes the next record; there is one writer at a time.
///
/// # Errors
///
/// The memory's; the page is whole all the same.
pub fn publish<M: Memory>(memory: &mut M, config: &Config, timestamp: u64) -> Result<DeviceRecord, M::Error> {
    let page = config.device_gpa();
    let record = DeviceRecord { sequence: memory.load(page)?.wrapping_add(1), timestamp };
    let slot = slot(page, record.sequence);
    memory.store(slot, record.sequence)?;
    memory.store(slot + 8, record.timestamp)?;
    memory.store(slot + 16, record.checksum(config))?;
    memory.store(page, record.sequence)?;
    Ok(record)
}

/// The sequence number of the newest record.
#[inline]
pub(crate) fn newest<L: Load>(memory: &mut L, config: &Config) -> Result<u64, L::Error> {
    memory.load(config.device_gpa())
}

pub(crate) fn read<L: Load>(memory: &mut L, config: &Config) -> Result<DevicePage, L::Error> {
    let page = config.device_gpa();
    loop {
        let sequence = memory.load(page)?;
        let slot = slot(page, sequence);
        let record = DeviceRecord { sequence: memory.load(slot)?, timestamp: memory.load(slot + 8)? };
        let seen = memory.load(slot + 16)?;
        if memory.load(page)? != sequence {
            continue;
        }
        let expected = if sequence == 0 && record.timestamp == 0 { 0 } else { record.checksum(config) };
        return Ok(if record.sequence == sequence && seen == expected {
            DevicePage::Whole(record)
        } else {
            DevicePage::Corrupt { expected, seen }
        });
    }
}

const fn slot(page: u64, sequence: u64) -> u64 {
    page + if sequence.is_multiple_of(2) { 0x40 } else { 0x80 }
}

impl DeviceRecord {
    fn checksum(&self, config: &Config) -> u64 {
        checksum(&[self.sequence, self.timestamp, config.seed])
    }
}
