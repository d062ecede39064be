//! Capabilities, enabled in the one order that the kernel accepts.

use ringmark_abi::{EnableCap, Errno, Vm, cap, manual};
use ringmark_dirty::mutant::{self, Mutant};

use crate::method::{Chosen, Method, Wish};
use crate::needs::{KernelWrites, Mapping, Needs};

/// Bytes of a ring entry (`struct kvm_dirty_gfn`).
const ENTRY_BYTES: u64 = 16;

/// The smallest ring that every host takes: 64 KiB is a page on a 64 KiB host and more than twice the reserve of a
/// page-modification log.
const PORTABLE_ENTRIES: u32 = 4096;

/// Why tracking could not be agreed with the host. The VM is unchanged unless the message says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiateError {
    /// The wished size is no power of two.
    #[error(
        "a dirty ring of {entries} entries was asked for, but the size must be a power of two: try {below} or {above}"
    )]
    NotPowerOfTwo {
        /// The wished entries.
        entries: u32,
        /// The next power of two below.
        below: u32,
        /// The next power of two above.
        above: u32,
    },
    /// The wished ring is smaller than a page of the host.
    #[error(
        "a dirty ring of {entries} entries is too small for this host: the least is {least}, and 4096 works everywhere"
    )]
    TooSmall {
        /// The wished entries.
        entries: u32,
        /// The entries that fill a page.
        least: u64,
    },
    /// The wished ring is larger than the capability's value.
    #[error("a dirty ring of {entries} entries is too large for this host: the most is {most}")]
    TooLarge {
        /// The wished entries.
        entries: u32,
        /// The most entries the host allows.
        most: u64,
    },
    /// The host has no dirty rings.
    #[error(
        "this host has no dirty rings (KVM_CAP_DIRTY_LOG_RING and _ACQ_REL are both 0): track with bitmaps instead"
    )]
    NoRing,
    /// Rings without a backup bitmap, and a kernel that writes guest memory with no vCPU running.
    #[error(
        "this host's dirty rings have no backup bitmap (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP is 0), and this VM's interrupt \
         controller writes its tables into guest memory with no vCPU running: their pages would be in no log, so they \
         cannot count as tracked. Track with bitmaps instead, or use a kernel with that capability"
    )]
    TablesUntracked,
    /// Rings without a backup bitmap on a weakly ordered host, with memory that may be mapped by huge pages.
    #[error(
        "this host's dirty rings have no backup bitmap (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP is 0), and guest memory may be \
         mapped by huge pages: arm64 maps such memory writable a block at a time unless a memslot has a bitmap, and logs \
         one page of the block. Track with bitmaps instead, use a kernel with that capability, or map guest memory by \
         small pages only (MADV_NOHUGEPAGE) and say so"
    )]
    HugePagesUntracked,
    /// The host refused to enable the ring.
    #[error(
        "the host refused dirty rings of {entries} entries ({errno}): a vCPU exists already, rings are enabled already, or \
         {entries} is below this host's minimum (1024 with a page-modification log; 4096 works everywhere). Negotiate \
         right after the VM is created, once"
    )]
    RingRefused {
        /// The entries asked for.
        entries: u32,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The host offers the backup bitmap and refused to enable it.
    #[error(
        "the host refused the backup bitmap ({0}) after it had enabled the dirty rings: a memslot exists already. Rings \
         cannot be switched off again: create the VM anew and negotiate before the first memslot"
    )]
    BitmapRefused(Errno),
    /// The host has no `KVM_CLEAR_DIRTY_LOG`.
    #[error(
        "this host has no manual protect (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is 0): it cannot track with bitmaps while the guest runs"
    )]
    NoManualProtect,
    /// The host refused a mode of manual protect that it offers.
    #[error("the host refused manual protect mode {mode} ({errno}) although it offers it")]
    ManualRefused {
        /// The argument of the capability.
        mode: u64,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A capability could not even be asked for.
    #[error(
        "the host did not say whether it has capability {cap} ({errno}): the VM is dead or belongs to another process"
    )]
    Unanswered {
        /// The capability's number.
        cap: u32,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// Agrees with the host how the VM is tracked, for the VM's life.
///
/// To be called once, after the VM is created and *before its first vCPU and its first memslot*: the kernel refuses a
/// ring once a vCPU exists (`kvm_vm_ioctl_enable_dirty_log_ring`) and a backup bitmap once a memslot exists.
///
/// The order is the kernel's: ring (by `ACQ_REL` where the host has it, which says that entries are read with acquire
/// and handed back with release, as they always are here), then the backup bitmap wherever it is offered, then manual
/// protect: on for stand-alone bitmaps, off beside rings. `INITIALLY_SET` is never used: beside rings it leaves mapped
/// pages unprotected, and alone it reports everything once.
///
/// Rings *without* a backup bitmap are taken only where they lose nothing of a VM with these `needs`: the kernel writes
/// no guest memory by itself and, on arm64, no memory is mapped by huge pages. There, `user_mem_abort` takes the memslot's
/// bitmap for the sign that logging is on, and without one maps a whole block writable for one logged page.
///
/// # Errors
/// A [`NegotiateError`] says what happened and what to do about it.
pub fn negotiate(vm: &dyn Vm, wish: Wish, needs: Needs) -> Result<Chosen, NegotiateError> {
    let host = Host::ask(vm, needs)?;
    match wish {
        Wish::Bitmap => bitmap(vm, &host, "asked for".into()),
        Wish::Ring { entries } => ring(vm, &host, entries, "asked for"),
        Wish::Auto => match host.check_ring(None) {
            Ok(_) => ring(
                vm,
                &host,
                None,
                "the host has dirty rings, whose cost follows what is written and not the memory's size",
            ),
            Err(reason) => bitmap(vm, &host, reason.to_string()),
        },
    }
}

/// The capabilities that decide.
struct Host {
    ring_cap: u32,
    ring_bytes: u64,
    total_store_order: bool,
    with_bitmap: bool,
    manual: u64,
    page_bytes: u64,
    needs: Needs,
}

impl Host {
    fn ask(vm: &dyn Vm, needs: Needs) -> Result<Self, NegotiateError> {
        let check = |cap| vm.check_extension(cap).map_err(|errno| NegotiateError::Unanswered { cap, errno });
        let acq_rel = check(cap::DIRTY_LOG_RING_ACQ_REL)?;
        let tso = check(cap::DIRTY_LOG_RING)?;
        let (ring_cap, ring_bytes) =
            if acq_rel > 0 { (cap::DIRTY_LOG_RING_ACQ_REL, acq_rel) } else { (cap::DIRTY_LOG_RING, tso) };
        Ok(Self {
            ring_cap,
            ring_bytes,
            total_store_order: tso > 0,
            with_bitmap: check(cap::DIRTY_LOG_RING_WITH_BITMAP)? > 0,
            manual: check(cap::MANUAL_DIRTY_LOG_PROTECT2)?,
            page_bytes: vm.page_size().bytes(),
            needs,
        })
    }

    /// The entries of the ring that would be enabled, checked before the kernel is asked: it truncates the size to 32
    /// bits and answers every wrong one with the same `EINVAL`.
    fn check_ring(&self, wished: Option<u32>) -> Result<u32, NegotiateError> {
        let most = self.ring_bytes / ENTRY_BYTES;
        if most == 0 {
            return Err(NegotiateError::NoRing);
        }
        if !self.with_bitmap {
            if self.needs.kernel_writes == KernelWrites::InterruptTables {
                return Err(NegotiateError::TablesUntracked);
            }
            // Only an architecture without total store order hides the old capability, and arm64 is the only one of those
            // that has rings.
            if !self.total_store_order && self.needs.mapping == Mapping::HugePages {
                return Err(NegotiateError::HugePagesUntracked);
            }
        }
        let largest = 1 << most.min(u64::from(u32::MAX)).ilog2();
        let entries = wished.unwrap_or(largest);
        if !entries.is_power_of_two() {
            let above = entries.checked_next_power_of_two().unwrap_or(largest).clamp(1, largest);
            return Err(NegotiateError::NotPowerOfTwo { entries, below: (above / 2).max(1), above });
        }
        if u64::from(entries) > most {
            return Err(NegotiateError::TooLarge { entries, most });
        }
        let least = self.page_bytes / ENTRY_BYTES;
        if u64::from(entries) < least {
            return Err(NegotiateError::TooSmall { entries, least });
        }
        Ok(entries)
    }
}

fn ring(vm: &dyn Vm, host: &Host, wished: Option<u32>, reason: &str) -> Result<Chosen, NegotiateError> {
    let entries = host.check_ring(wished)?;
    vm.enable_cap(&EnableCap::new(host.ring_cap, u64::from(entries) * ENTRY_BYTES))
        .map_err(|errno| NegotiateError::RingRefused { entries, errno })?;
    let with_bitmap = host.with_bitmap && !mutant::active(Mutant::RingWithoutBitmap);
    if with_bitmap {
        vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_WITH_BITMAP, 0))
            .map_err(NegotiateError::BitmapRefused)?;
    }
    if host.manual > 0 {
        set_manual(vm, 0)?;
    }
    let (method, backup) = if with_bitmap {
        (Method::RingWithBitmap { entries }, "writes without a running vCPU go to the kernel's backup bitmap")
    } else {
        (
            Method::Ring { entries },
            "the host has no backup bitmap and this VM needs none, as the kernel writes its memory for no device; what the \
             monitor's devices write is in the monitor's own log",
        )
    };
    let small = if entries < PORTABLE_ENTRIES { "; rings this small fill often" } else { "" };
    Ok(Chosen { method, why: format!("{reason}; {backup}{small}") })
}

fn bitmap(vm: &dyn Vm, host: &Host, reason: String) -> Result<Chosen, NegotiateError> {
    if host.manual == 0 {
        return Err(NegotiateError::NoManualProtect);
    }
    let initially_set = if mutant::active(Mutant::InitiallySet) { manual::INITIALLY_SET } else { 0 };
    set_manual(vm, manual::PROTECT_ENABLE | initially_set)?;
    Ok(Chosen { method: Method::Bitmap, why: reason })
}

fn set_manual(vm: &dyn Vm, mode: u64) -> Result<(), NegotiateError> {
    vm.enable_cap(&EnableCap::new(cap::MANUAL_DIRTY_LOG_PROTECT2, mode))
        .map_err(|errno| NegotiateError::ManualRefused { mode, errno })
}
