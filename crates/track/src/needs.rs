//! What decides whether a way of tracking is enough for a VM, and what no kernel can be asked.

/// Who writes a VM's memory beside its vCPUs, and how that memory is mapped.
///
/// Only the monitor's author knows, so [`negotiate`](crate::negotiate) wants it said each time, and there is no default.
/// A way of tracking that would lose a page of such a VM is then refused before the first page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    /// What the kernel writes with no vCPU running.
    pub kernel_writes: KernelWrites,
    /// How guest memory is mapped.
    pub mapping: Mapping,
}

/// What the kernel writes into guest memory with no vCPU running. A dirty ring is a vCPU's, so none of these writes is in
/// one: `mark_page_dirty_in_slot` puts them into the backup bitmap, and drops them where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelWrites {
    /// Nothing: the VM has no device that the kernel saves to or restores from guest memory. True of every x86-64 VM.
    None,
    /// The tables of an interrupt controller: translation tables (`KVM_DEV_ARM_ITS_SAVE_TABLES` and
    /// `_RESTORE_TABLES`) and pending tables (`KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES`). True of every arm64 VM with an
    /// interrupt translation service.
    InterruptTables,
}

/// How guest memory is mapped in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// By the host's smallest page only, in every memslot and for the VM's life: no hugetlbfs, and transparent huge pages
    /// forbidden (`MADV_NOHUGEPAGE`, or a memory file on a file system without them).
    SmallPages,
    /// Perhaps by huge pages. True unless something was done about it.
    HugePages,
}
