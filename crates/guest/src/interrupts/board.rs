//! What driving an interrupt controller takes beside memory.

use crate::memory::Memory;

/// A vCPU on bare metal: memory, registers of devices, and time to wait.
pub trait Board: Memory {
    /// Reads the 64-bit register at `address`.
    fn read(&mut self, address: u64) -> u64;

    /// Writes the 64-bit register at `address`. Every store to memory before it is complete when a device sees it.
    fn write(&mut self, address: u64, value: u64);

    /// As [`write`](Self::write), a 32-bit register.
    fn write_half(&mut self, address: u64, value: u32);

    /// Lets a moment pass, and gives the microseconds for which this vCPU ran in it: while a machine stands still no
    /// time passes.
    fn pause(&mut self) -> u64;
}
