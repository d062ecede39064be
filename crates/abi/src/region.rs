//! The argument of `KVM_SET_USER_MEMORY_REGION`.

use ringmark_dirty::SlotId;

/// A memslot as user space describes it (`struct kvm_userspace_memory_region`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// The slot's name; the address space is in its upper half.
    pub slot: SlotId,
    /// [`mem`](crate::mem) flags.
    pub flags: u32,
    /// Guest-physical address of the first byte; page-aligned.
    pub guest_phys_addr: u64,
    /// Length in bytes; page-aligned; 0 deletes the slot.
    pub memory_size: u64,
    /// Address of the memory in this process; page-aligned.
    pub userspace_addr: u64,
}
