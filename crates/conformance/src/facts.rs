//! What a target says of itself before any case runs.

use ringmark_dirty::PageSize;

/// Whose rules a target follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rules {
    /// Total store order, both ring capabilities, no backup bitmap, no interrupt controller that writes memory.
    X86,
    /// Acquire and release, the backup bitmap, VGIC and ITS.
    Arm64,
}

impl Rules {
    /// The name used in target names and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::Arm64 => "arm64",
        }
    }
}

/// What a target is, so that cases know which answers are due.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The target's name: `engine-x86`, `engine-arm64`, `kvm`.
    pub name: String,
    /// Whose rules hold.
    pub rules: Rules,
    /// Kernel name and release, or the engine's version; the kind of MMU in brackets.
    pub kernel: String,
    /// Major and minor release of the kernel; `None` for the engine.
    pub release: Option<(u32, u32)>,
    /// What translates guest memory: `EPT`, `NPT`, `shadow paging (kvm_pvm)`, `software`.
    pub mmu: String,
    /// The granule of tracking.
    pub page_size: PageSize,
    /// Entries that a page-modification log adds to the reserve: 0 or 512.
    pub pml: u32,
    /// Memslots a user may create in one address space (`KVM_CAP_NR_MEMSLOTS`).
    pub user_slots: u32,
    /// Address spaces (`KVM_CAP_MULTI_ADDRESS_SPACE`, at least 1).
    pub address_spaces: u32,
    /// A real kernel, on which over-reports are legal and hazards may take others down.
    pub real: bool,
    /// Rings exist at all.
    pub ring: bool,
    /// The backup bitmap exists (`KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP`).
    pub with_bitmap: bool,
    /// A VGICv3 with ITS can be created.
    pub gic: bool,
    /// Whether the kernel panics when it warns (`kernel.panic_on_warn`).
    pub panics_on_warn: bool,
    /// Whether `KVM_RESET_DIRTY_RINGS` stops at a pending signal (since Linux 6.16).
    pub reset_stops_on_signal: bool,
}

impl Facts {
    /// Entries of `struct kvm_dirty_gfn` (16 bytes) that the soft limit lies below a ring's size.
    #[must_use]
    pub const fn reserve(&self) -> u32 {
        64 + self.pml
    }

    /// The smallest ring the kernel accepts, in entries.
    #[must_use]
    pub fn smallest_ring(&self) -> u32 {
        let page = u32::try_from(self.page_size.bytes() / ENTRY_BYTES).unwrap_or(u32::MAX);
        self.reserve().next_power_of_two().max(page)
    }
}

/// Bytes of one ring entry.
pub(crate) const ENTRY_BYTES: u64 = 16;
/// The largest ring in bytes (`KVM_DIRTY_RING_MAX_ENTRIES` entries).
pub(crate) const RING_BYTES_MAX: u64 = 1 << 20;
