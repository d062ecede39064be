//! Where the devices of an arm64 board lie: all in the first GiB, below memory.

/// Frame of the distributor, 64 KiB.
pub const DISTRIBUTOR: u64 = 0x0800_0000;
/// Frames of the redistributors, 128 KiB a vCPU, in the order of the vCPUs.
pub const REDISTRIBUTORS: u64 = 0x080a_0000;
/// Frames of the interrupt translation services, 128 KiB each.
pub const TRANSLATORS: u64 = 0x0a00_0000;
/// Registers of the serial console, a byte each.
pub const SERIAL: u64 = 0x0900_0000;
/// The shared peripheral interrupt of the serial console; its INTID is 32 more.
pub const SERIAL_SPI: u32 = 1;
/// The register by which a guest ends with a code.
pub const HALT: u64 = 0x0901_0000;

/// Bytes of a redistributor's and of a translation service's frames.
pub const FRAMES: u64 = 0x2_0000;

/// The frames of the translation service with this index.
#[must_use]
pub const fn translator(index: u32) -> u64 {
    TRANSLATORS + index as u64 * FRAMES
}

/// The affinity of a vCPU as KVM gives it: sixteen a cluster (`reset_mpidr`).
#[must_use]
pub const fn affinity(vcpu: u32) -> u32 {
    vcpu & 0xf | (vcpu >> 4 & 0xff) << 8
}
