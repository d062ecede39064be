//! One virtual processor.

#![allow(unsafe_code, reason = "KVM_RUN, and the memory shared with it")]

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use ringmark_abi::Errno;
use ringmark_dirty::RingMemory;

use crate::mapping::Mapping;
use crate::ring::RingMapping;
use crate::run_page::RunPage;
use crate::{Exit, Kick, Vm, errno, ioctl, signal};

/// A virtual processor of a [`Vm`].
///
/// It may be moved between threads and run by any of them, one at a time.
pub struct Vcpu {
    fd: VcpuFd,
    id: u32,
    page: Arc<RunPage>,
    ring: Option<Arc<RingMapping>>,
    vm: Vm,
}

/// Why a vCPU could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateVcpuError {
    /// `KVM_CREATE_VCPU` failed.
    #[error("vCPU {id} cannot be created: {errno}")]
    Create {
        /// The vCPU's id.
        id: u32,
        /// What the kernel gave: `EEXIST` if the id is in use, `EINVAL` if it is out of range.
        errno: Errno,
    },
    /// The run structure or the dirty ring could not be mapped; the vCPU is gone again, but its id is used up.
    #[error("the memory shared with vCPU {id} cannot be mapped: {errno}")]
    Map {
        /// The vCPU's id.
        id: u32,
        /// What `mmap` gave.
        errno: Errno,
    },
    /// The signal of [`Kick`] could not be given its handler.
    #[error("the signal that takes vCPUs out of the guest cannot be given a handler: {0}")]
    Signal(Errno),
}

impl From<CreateVcpuError> for Errno {
    fn from(error: CreateVcpuError) -> Self {
        match error {
            CreateVcpuError::Create { errno, .. }
            | CreateVcpuError::Map { errno, .. }
            | CreateVcpuError::Signal(errno) => errno,
        }
    }
}

impl Vcpu {
    pub(crate) fn create(vm: Vm, id: u32, ring_bytes: u32) -> Result<Self, CreateVcpuError> {
        signal::install().map_err(CreateVcpuError::Signal)?;
        let fd = vm
            .fd()
            .create_vcpu(u64::from(id))
            .map_err(|e| CreateVcpuError::Create { id, errno: errno::of(e) })?;
        let map = |errno| CreateVcpuError::Map { id, errno };
        let page = Arc::new(RunPage::new(&fd, vm.fd().run_size()).map_err(map)?);
        let ring = match ring_bytes {
            0 => None,
            bytes => Some(Arc::new(RingMapping::new(&fd, bytes, vm.host_page_size()).map_err(map)?)),
        };
        Ok(Self { fd, id, page, ring, vm })
    }

    /// The id it was created by.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The machine it belongs to.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Its dirty ring, or `None` where the VM has none.
    #[must_use]
    pub fn ring_memory(&self) -> Option<Arc<dyn RingMemory>> {
        self.ring.clone().map(|ring| ring as Arc<dyn RingMemory>)
    }

    /// A handle that takes it out of the guest from any thread.
    #[must_use]
    pub fn kick_handle(&self) -> Kick {
        Kick::new(Arc::clone(&self.page))
    }

    /// `KVM_RUN`: runs the guest until something wants user space.
    ///
    /// Unblocks the signal of [`Kick`] (`SIGRTMIN`) in the calling thread, the first time.
    ///
    /// # Errors
    /// What `KVM_RUN` gives, such as `EFAULT` for guest memory that is gone. `EINTR` and `EAGAIN` are no errors but
    /// [`Exit::Interrupted`].
    pub fn run(&mut self) -> Result<Exit<'_>, Errno> {
        match self.enter() {
            // SAFETY: `&mut self` makes the caller the owner, for as long as the exit lives.
            Ok(_) => unsafe { self.page.exit() },
            Err(Errno::EINTR | Errno::EAGAIN) => {
                self.page.answer();
                Ok(Exit::Interrupted)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Finishes the port or MMIO access of the last exit without running the guest: `KVM_RUN` with `immediate_exit`.
    ///
    /// State may be saved only after it, and it may write guest memory and log the page. [`Exit::Interrupted`] says
    /// that nothing is pending any more; any other exit is one more piece of the same access, to be served like the
    /// first and followed by another call. A kick that comes meanwhile is kept for the next [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn complete_pending(&mut self) -> Result<Exit<'_>, Errno> {
        self.page.set_immediate_exit(true);
        let entered = self.enter();
        self.page.settle();
        match entered {
            // SAFETY: as in `run`.
            Ok(_) => unsafe { self.page.exit() },
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(Exit::Interrupted),
            Err(errno) => Err(errno),
        }
    }

    /// Sets `immediate_exit`: the next [`run`](Self::run) finishes what is pending and returns
    /// [`Exit::Interrupted`], which clears it again.
    pub fn set_immediate_exit(&mut self, on: bool) {
        self.page.set_immediate_exit(on);
    }

    /// Maps `pages` pages of the vCPU's descriptor from page `first`, with protection and flags of `mmap`.
    ///
    /// For the behaviour suite: what the kernel lets a process map of the ring, and what it refuses.
    ///
    /// # Errors
    /// What `mmap` gives; `EINVAL` (ours) for `MAP_FIXED`.
    pub fn map_raw(&self, first: u64, pages: usize, prot: i32, flags: i32) -> Result<RawMapping, Errno> {
        let page = self.vm.host_page_size().bytes();
        let len = usize::try_from(page).ok().and_then(|page| page.checked_mul(pages)).ok_or(Errno::EINVAL)?;
        let offset = first.checked_mul(page).ok_or(Errno::EINVAL)?;
        Ok(RawMapping { mapping: Mapping::new(&self.fd, offset, len, prot, flags)? })
    }

    /// The descriptor as `kvm-ioctls` has it.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    fn enter(&mut self) -> Result<u32, Errno> {
        self.page.enter(signal::receive_here()?);
        // SAFETY: KVM_RUN takes 0. What it writes is guest memory, promised when the memslot was made, and the run
        // structure, of which `&mut self` excludes any live exit.
        let entered = unsafe { ioctl::value(&self.fd, ioctl::KVM_RUN(), 0) };
        self.page.leave();
        entered
    }
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("id", &self.id).field("ring", &self.ring).finish_non_exhaustive()
    }
}

/// A mapping made by [`Vcpu::map_raw`]; unmapped on drop.
#[derive(Debug)]
pub struct RawMapping {
    mapping: Mapping,
}

impl RawMapping {
    /// The first byte. Access may raise `SIGBUS`: the kernel maps more than there is.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether nothing is mapped; never so for a mapping that was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
