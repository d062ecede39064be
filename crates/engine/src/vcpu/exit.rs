//! Why a vCPU left the guest.

use ringmark_abi::Errno;

/// The end of one `KVM_RUN`.
///
/// A store or load that gives an exit has not happened, with one exception: after [`Exit::Mmio`] of a write the
/// instruction is complete and is not to be repeated. After every other exit the guest repeats it when it runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `KVM_EXIT_DIRTY_RING_FULL` (31): the ring's soft limit is reached; harvest and reset before running on. The
    /// newest entry's store has not happened yet.
    DirtyRingFull,
    /// `EINTR`: `immediate_exit` is set or a signal came.
    Interrupted,
    /// `KVM_EXIT_MMIO` (6): the address is in no memslot and no device's, or a write met a read-only memslot.
    Mmio {
        /// The first byte's guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: usize,
        /// Whether the guest wrote.
        write: bool,
    },
    /// `KVM_EXIT_IO` (2) of a string input: give the data to [`Vcpu::set_io_data`](crate::Vcpu::set_io_data); the next
    /// `KVM_RUN` writes it to guest memory before anything else.
    IoIn {
        /// The port.
        port: u16,
        /// Length in bytes.
        len: usize,
    },
    /// The run itself failed with this errno: `EIO` from a dead VM or a forked child, `EFAULT` for an access that
    /// crosses a page.
    Failed(Errno),
}
