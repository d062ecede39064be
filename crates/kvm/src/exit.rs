//! Why a vCPU left the guest.

/// Why [`Vcpu::run`](crate::Vcpu::run) returned.
///
/// Port and MMIO data lie in the memory that is shared with the kernel: read data is filled in through `data` and
/// reaches the guest on the next `run`, which is also when a string instruction writes it to guest memory (and logs
/// the page).
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit<'a> {
    /// The guest reads a port: fill `data`.
    IoIn {
        /// The port.
        port: u16,
        /// Bytes of one access; `data` is several for a string instruction.
        width: u8,
        /// Where the answer goes.
        data: &'a mut [u8],
    },
    /// The guest writes a port.
    IoOut {
        /// The port.
        port: u16,
        /// Bytes of one access; `data` is several for a string instruction.
        width: u8,
        /// What it writes.
        data: &'a [u8],
    },
    /// The guest reads guest-physical memory that no memslot holds: fill `data`.
    MmioRead {
        /// The guest-physical address.
        address: u64,
        /// Where the answer goes.
        data: &'a mut [u8],
    },
    /// The guest writes guest-physical memory that no memslot holds, or that a read-only one does.
    MmioWrite {
        /// The guest-physical address.
        address: u64,
        /// What it writes.
        data: &'a [u8],
    },
    /// The guest halted, on a VM without an interrupt controller in the kernel.
    Hlt,
    /// The vCPU's dirty ring is at its soft limit. The store that found it so has *not* happened and will be logged
    /// again: harvest, reset, and run on. Running on without a reset gives the same exit, for ever.
    DirtyRingFull,
    /// A kick, `immediate_exit` or a signal: nothing happened to the guest. The ring may be full none the less.
    Interrupted,
    /// The guest shut itself down, on x86 by a triple fault.
    Shutdown,
    /// The guest asked its firmware for a shutdown or reset (`KVM_SYSTEM_EVENT_*`).
    SystemEvent {
        /// What it asked for.
        kind: u32,
    },
    /// The processor refused to enter the guest: its state is invalid.
    FailEntry {
        /// The processor's reason.
        reason: u64,
        /// The host processor.
        cpu: u32,
    },
    /// KVM met what it cannot emulate, or itself (`KVM_INTERNAL_ERROR_*`).
    InternalError {
        /// What it was.
        suberror: u32,
    },
    /// Another exit, by its number.
    Other(u32),
}
