//! What kind of kernel and host the engine plays.

use ringmark_abi::cap;
use ringmark_dirty::PageSize;

/// The largest ring in bytes: 65,536 entries (`KVM_DIRTY_RING_MAX_ENTRIES`).
pub(crate) const MAX_RING_BYTES: u32 = 1 << 20;
/// Entries kept free for pushes between two entry checks (`KVM_DIRTY_RING_RSVD_ENTRIES`).
const RESERVED_ENTRIES: u32 = 64;
/// The page size both profiles start with: x86 has no other, arm64 hosts most often this one.
const SMALL_PAGE: PageSize = match PageSize::new(1 << 12) {
    Some(size) => size,
    None => unreachable!(),
};
/// Entries of the buffer that hardware fills when it logs page modifications (Intel PML).
pub(crate) const PML_ENTRIES: u32 = 512;

/// Whose rules the engine follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Total store order: both ring capabilities, no backup bitmap.
    X86,
    /// Weakly ordered: only `ACQ_REL`, with a backup bitmap.
    Arm64,
}

/// The kernel and host a [`System`](crate::System) plays; a value, changed by its setters.
///
/// The two constructors are the mainline kernels of today; the setters are the differences that real kernels show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub(crate) arch: Arch,
    pub(crate) page_size: PageSize,
    pub(crate) pml: u32,
    pub(crate) user_slots: u32,
    pub(crate) address_spaces: u32,
    pub(crate) reset_stops_on_signal: bool,
    pub(crate) range_protect: bool,
    pub(crate) log_needs_bitmap: bool,
    pub(crate) read_fault_logs: bool,
    pub(crate) huge_block_pages: u64,
    pub(crate) ipa_bits: u32,
}

impl Profile {
    /// x86-64 without a page-modification log: exact re-protection, two address spaces (the second is SMM's).
    #[must_use]
    pub const fn x86() -> Self {
        Self {
            arch: Arch::X86,
            page_size: SMALL_PAGE,
            pml: 0,
            user_slots: 32764,
            address_spaces: 2,
            reset_stops_on_signal: true,
            range_protect: false,
            log_needs_bitmap: false,
            read_fault_logs: false,
            huge_block_pages: 1,
            ipa_bits: 52,
        }
    }

    /// arm64: `ACQ_REL` and backup bitmap only, re-protection by range, the huge-page hole of ring-only mode.
    #[must_use]
    pub const fn arm64() -> Self {
        Self {
            arch: Arch::Arm64,
            page_size: SMALL_PAGE,
            pml: 0,
            user_slots: 32767,
            address_spaces: 1,
            reset_stops_on_signal: true,
            range_protect: true,
            log_needs_bitmap: true,
            read_fault_logs: true,
            huge_block_pages: 1,
            ipa_bits: 40,
        }
    }

    /// The host's page size.
    #[must_use]
    pub const fn page_size(mut self, size: PageSize) -> Self {
        self.page_size = size;
        self
    }

    /// Whether stores are logged by hardware into a 512-entry buffer after they happened (Intel PML; x86 only).
    #[must_use]
    pub const fn pml(mut self, on: bool) -> Self {
        self.pml = if on { PML_ENTRIES } else { 0 };
        self
    }

    /// User memslots an address space may have (`KVM_USER_MEM_SLOTS`), at most 32,767.
    #[must_use]
    pub const fn user_slots(mut self, slots: u16) -> Self {
        self.user_slots = if slots > 32767 { 32767 } else { slots as u32 };
        self
    }

    /// Address spaces: 2 on x86 with system-management mode, else 1. 0 counts as 1.
    #[must_use]
    pub const fn address_spaces(mut self, spaces: u16) -> Self {
        self.address_spaces = if spaces == 0 { 1 } else { spaces as u32 };
        self
    }

    /// Whether `KVM_RESET_DIRTY_RINGS` looks at pending signals: since Linux 6.16 yes, in 6.12 no.
    #[must_use]
    pub const fn reset_stops_on_signal(mut self, stops: bool) -> Self {
        self.reset_stops_on_signal = stops;
        self
    }

    /// Whether a batch re-protects everything from its lowest to its highest page (arm64) instead of exactly its pages.
    #[must_use]
    pub const fn range_protect(mut self, range: bool) -> Self {
        self.range_protect = range;
        self
    }

    /// Whether the fault handler takes a *bitmap* for the sign that a slot is logging (arm64's `memslot_is_logging`):
    /// with a ring and no bitmap, one fault then makes a whole huge block writable and logs one page of it.
    #[must_use]
    pub const fn log_needs_bitmap(mut self, needs: bool) -> Self {
        self.log_needs_bitmap = needs;
        self
    }

    /// Whether the first read of a page logs it where the handler takes the slot for not logging (arm64, ring-only).
    #[must_use]
    pub const fn read_fault_logs(mut self, logs: bool) -> Self {
        self.read_fault_logs = logs;
        self
    }

    /// Pages of the huge blocks that back guest memory, a power of two; 1 (the default) for none. Other values count
    /// as the next power of two. It matters only with [`log_needs_bitmap`](Self::log_needs_bitmap).
    #[must_use]
    pub const fn huge_block_pages(mut self, pages: u32) -> Self {
        self.huge_block_pages = (if pages > 1 << 18 { 1 << 18 } else { pages as u64 }).next_power_of_two();
        self
    }

    /// Bits of a guest-physical address; arm64 answers `EFAULT` to a memslot beyond. Between 32 and 52.
    #[must_use]
    pub const fn ipa_bits(mut self, bits: u32) -> Self {
        self.ipa_bits = if bits < 32 {
            32
        } else if bits > 52 {
            52
        } else {
            bits
        };
        self
    }

    /// Whose rules these are.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.arch
    }

    /// The host's page size.
    #[must_use]
    pub const fn host_page_size(&self) -> PageSize {
        self.page_size
    }

    /// Bits of a guest-physical address.
    #[must_use]
    pub const fn guest_address_bits(&self) -> u32 {
        self.ipa_bits
    }

    /// Entries below the ring's size at which a vCPU exits as soft-full (`kvm_dirty_ring_get_rsvd_entries`).
    #[must_use]
    pub const fn reserved_entries(&self) -> u32 {
        RESERVED_ENTRIES + self.pml
    }

    /// What `KVM_CHECK_EXTENSION` answers (`kvm_vm_ioctl_check_extension_generic`); the same on system and VM.
    #[must_use]
    pub const fn check_extension(&self, cap: u32) -> u64 {
        let x86 = matches!(self.arch, Arch::X86);
        match cap {
            cap::DIRTY_LOG_RING if x86 => MAX_RING_BYTES as u64,
            cap::DIRTY_LOG_RING_ACQ_REL => MAX_RING_BYTES as u64,
            cap::DIRTY_LOG_RING_WITH_BITMAP if !x86 => 1,
            cap::MANUAL_DIRTY_LOG_PROTECT2 => 3,
            CAP_NR_MEMSLOTS => self.user_slots as u64,
            CAP_READONLY_MEM => 1,
            CAP_MULTI_ADDRESS_SPACE if x86 && self.address_spaces > 1 => self.address_spaces as u64,
            _ => 0,
        }
    }

    /// The end of what a process may map, below which a memslot's memory must lie (`access_ok`).
    pub(crate) const fn user_address_end(&self) -> u64 {
        match self.arch {
            Arch::X86 => (1 << 47) - self.page_size.bytes(),
            Arch::Arm64 => 1 << 48,
        }
    }
}

/// `KVM_CAP_NR_MEMSLOTS`.
const CAP_NR_MEMSLOTS: u32 = 10;
/// `KVM_CAP_READONLY_MEM`.
const CAP_READONLY_MEM: u32 = 81;
/// `KVM_CAP_MULTI_ADDRESS_SPACE`.
const CAP_MULTI_ADDRESS_SPACE: u32 = 118;
