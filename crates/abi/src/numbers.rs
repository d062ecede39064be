//! Numbers of the kernel's user interface (`include/uapi/linux/kvm.h`).

/// Capabilities, as `KVM_CHECK_EXTENSION` and `KVM_ENABLE_CAP` number them.
pub mod cap {
    /// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT`, the obsolete first version; the kernel refuses it.
    pub const MANUAL_DIRTY_LOG_PROTECT: u32 = 166;
    /// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`: clearing by `KVM_CLEAR_DIRTY_LOG` instead of by reading.
    pub const MANUAL_DIRTY_LOG_PROTECT2: u32 = 168;
    /// `KVM_CAP_DIRTY_LOG_RING`: rings on architectures with total store order. Its value is the largest ring in bytes.
    pub const DIRTY_LOG_RING: u32 = 192;
    /// `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`: rings whose user pairs load-acquire with store-release.
    pub const DIRTY_LOG_RING_ACQ_REL: u32 = 223;
    /// `KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP`: a backup bitmap a memslot for writes without a running vCPU.
    pub const DIRTY_LOG_RING_WITH_BITMAP: u32 = 225;
}

/// Arguments of [`cap::MANUAL_DIRTY_LOG_PROTECT2`].
pub mod manual {
    /// `KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE`.
    pub const PROTECT_ENABLE: u64 = 1;
    /// `KVM_DIRTY_LOG_INITIALLY_SET`; never to be used beside a ring (it leaves mapped pages unprotected).
    pub const INITIALLY_SET: u64 = 2;
}

/// Flags of a memslot.
pub mod mem {
    /// No flag.
    pub const NONE: u32 = 0;
    /// `KVM_MEM_LOG_DIRTY_PAGES`.
    pub const LOG_DIRTY_PAGES: u32 = 1;
    /// `KVM_MEM_READONLY`.
    pub const READONLY: u32 = 2;
}

/// Exit reasons of `KVM_RUN` that dirty tracking gives.
pub mod exit {
    /// `KVM_EXIT_DIRTY_RING_FULL`: the vCPU's ring reached its soft limit; it has no payload.
    pub const DIRTY_RING_FULL: u32 = 31;
}
