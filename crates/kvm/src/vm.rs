//! One virtual machine.

mod abi;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod irq;
mod raw;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{Kvm, VmFd};
use ringmark_abi::MemoryRegion;
use ringmark_dirty::{PageSize, SlotId};

use crate::{CreateVcpuError, Vcpu};

/// A virtual machine of `/dev/kvm`; clones are one machine.
///
/// [`ringmark_abi::Vm`] is its interface of dirty tracking. The machine ends when the last clone, vCPU, [`Kick`] and
/// ring mapping of it is gone.
///
/// It remembers every memslot it was given. That is what makes changing a slot's flags safe (the memory stays the one
/// that was promised), and what the length of a bitmap is checked against before the kernel writes to it.
///
/// [`Kick`]: crate::Kick
#[derive(Clone)]
pub struct Vm {
    inner: Arc<Inner>,
}

struct Inner {
    fd: VmFd,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "asked for its MSRs, which x86 has"))]
    kvm: Arc<Kvm>,
    page_size: PageSize,
    book: Mutex<Book>,
}

/// What user space must remember, since the kernel does not tell.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// The memslots, by name.
    pub(crate) regions: BTreeMap<SlotId, MemoryRegion>,
    /// Bytes of each vCPU's ring; 0 without one.
    pub(crate) ring_bytes: u32,
    /// What the interrupt controller consists of.
    #[cfg(target_arch = "aarch64")]
    pub(crate) gic: crate::arm64::GicParts,
}

impl Vm {
    pub(crate) fn new(fd: VmFd, kvm: Arc<Kvm>, page_size: PageSize) -> Self {
        Self { inner: Arc::new(Inner { fd, kvm, page_size, book: Mutex::default() }) }
    }

    /// `KVM_CREATE_VCPU`, with its run structure and, where the VM has one, its dirty ring mapped.
    ///
    /// `id` is the vCPU's name to the interrupt controller, not an index; any number below `KVM_CAP_MAX_VCPU_ID`
    /// will do. The first vCPU ends the time in which a ring can be enabled.
    ///
    /// # Errors
    /// [`CreateVcpuError`]; `EEXIST` for an `id` in use, `EINVAL` for one out of range, `ENOMEM` where a ring cannot
    /// be had.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, CreateVcpuError> {
        // Held across the ioctl, so that a ring is seen either by the kernel and here, or by neither.
        let book = self.book();
        Vcpu::create(self.clone(), id, book.ring_bytes)
    }

    /// Entries of each vCPU's dirty ring, or `None` without one.
    #[must_use]
    pub fn ring_entries(&self) -> Option<u32> {
        let entry = u32::try_from(size_of::<ringmark_dirty::Entry>()).unwrap_or(u32::MAX);
        Some(self.book().ring_bytes / entry).filter(|&entries| entries > 0)
    }

    /// The memslots as they stand, by name.
    #[must_use]
    pub fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.book().regions.values().copied().collect()
    }

    /// The descriptor as `kvm-ioctls` has it.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.inner.fd
    }

    /// The device the VM was made by.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn kvm(&self) -> &Kvm {
        &self.inner.kvm
    }

    /// The host's page size.
    pub(crate) fn host_page_size(&self) -> PageSize {
        self.inner.page_size
    }

    /// What is remembered. A panic elsewhere leaves it whole: it is changed after the kernel agreed, in one step.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.inner.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRawFd for Vm {
    /// The VM's file descriptor. Memslots changed through it are not remembered here.
    fn as_raw_fd(&self) -> RawFd {
        self.inner.fd.as_raw_fd()
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("fd", &self.as_raw_fd()).finish_non_exhaustive()
    }
}
