//! Virtual CPUs: rings, the run bracket, stores and loads.

mod exit;
mod ioctl_lock;
mod kick;
mod loaded;
mod mapping;
mod pml;
mod requests;
mod running;
mod section;
mod shadow;
mod store;
mod tlb;

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use ringmark_abi::{EnableCap, Errno};
use ringmark_dirty::{Entry, Producer, RingMemory};

pub use exit::Exit;
pub(crate) use ioctl_lock::VcpusHeld;
pub use kick::Kick;
pub(crate) use loaded::current;
pub use mapping::RingMapping;
pub use running::Running;
pub(crate) use shadow::Shadow;

use crate::{
    Vm,
    profile::Arch,
    vm::{VmInner, Writer},
};
use ioctl_lock::IoctlLock;
use loaded::Loaded;
use pml::Pml;
use requests::Requests;
use section::Section;
use store::Core;

/// The ring's memory as user space maps it; it outlives the vCPU.
pub(crate) type RingPages = Arc<Box<[Entry]>>;

/// What others than its own thread see of a vCPU. It lives as long as its VM, whatever becomes of the [`Vcpu`].
pub(crate) struct VcpuShared {
    pub(crate) id: u32,
    pub(crate) vm: Weak<VmInner>,
    pub(crate) ring: Option<Producer<RingPages>>,
    pub(crate) section: Section,
    pub(crate) requests: Requests,
    pub(crate) ioctl: IoctlLock,
    pub(crate) pml: Mutex<Pml>,
    pub(crate) has_run: AtomicBool,
    pub(crate) shadow: OnceLock<Shadow>,
}

impl VcpuShared {
    pub(crate) fn new(id: u32, vm: Weak<VmInner>, ring: Option<Producer<RingPages>>) -> Self {
        Self {
            id,
            vm,
            ring,
            section: Section::default(),
            requests: Requests::default(),
            ioctl: IoctlLock::default(),
            pml: Mutex::default(),
            has_run: AtomicBool::new(false),
            shadow: OnceLock::new(),
        }
    }
}

impl fmt::Debug for VcpuShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("id", &self.id).field("ring", &self.ring).finish_non_exhaustive()
    }
}

/// A virtual CPU, to be run by one thread at a time.
///
/// [`enter`](Self::enter) is the front half of `KVM_RUN`; the [`Running`] it returns is the guest, and dropping that
/// (or an [`Exit`]) is the back half. [`store`](Self::store) and [`load`](Self::load) are whole runs of one access.
/// Dropping the vCPU closes its descriptor; as in the kernel it stays created, and its ring stays mapped.
pub struct Vcpu {
    vm: Vm,
    shared: Arc<VcpuShared>,
    core: Core,
}

impl Vcpu {
    pub(crate) fn new(vm: Vm, shared: Arc<VcpuShared>) -> Self {
        Self { core: Core::new(&vm), vm, shared }
    }

    /// The number it was created with.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// The VM it belongs to.
    #[must_use]
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The memory of its ring, all of it; `None` if rings are off. It may be used longer than the vCPU.
    #[must_use]
    pub fn ring_memory(&self) -> Option<Arc<dyn RingMemory>> {
        let pages = Arc::clone(self.shared.ring.as_ref()?.memory());
        Some(pages)
    }

    /// A handle that gets it out of the guest.
    #[must_use]
    pub fn kicker(&self) -> Kick {
        Kick { vcpu: Arc::clone(&self.shared) }
    }

    /// Takes [`Kick::kick`]'s `immediate_exit` back, so that the next `KVM_RUN` runs.
    pub fn clear_immediate_exit(&self) {
        self.shared.requests.set_immediate_exit(false);
    }

    /// Sets `immediate_exit` without a signal: the next `KVM_RUN` completes a pending input and returns `EINTR`.
    pub fn set_immediate_exit(&self) {
        self.shared.requests.set_immediate_exit(true);
    }

    /// The address space its accesses go to: 1 while an x86 vCPU is in system-management mode, else 0.
    pub fn set_address_space(&mut self, as_id: u16) {
        self.core.as_id = as_id;
    }

    /// `KVM_RUN` up to the guest: completes a pending input, then looks at `immediate_exit`, the ring and signals.
    ///
    /// The checks come in the kernel's order: on x86 a full ring goes before a signal, on arm64 after it.
    ///
    /// # Errors
    /// The [`Exit`] with which the run ended before guest code ran.
    pub fn enter(&mut self) -> Result<Running<'_>, Exit> {
        Running::enter(self)
    }

    /// A whole `KVM_RUN` in which the guest stores `data` at `gpa`; see [`Running::store`].
    ///
    /// # Errors
    /// As [`Running::store`].
    pub fn store(&mut self, gpa: u64, data: &[u8]) -> Result<(), Exit> {
        self.enter()?.store(gpa, data)
    }

    /// A whole `KVM_RUN` in which the guest loads from `gpa`; see [`Running::load`].
    ///
    /// # Errors
    /// As [`Running::load`].
    pub fn load(&mut self, gpa: u64, data: &mut [u8]) -> Result<(), Exit> {
        self.enter()?.load(gpa, data)
    }

    /// A vCPU ioctl other than `KVM_RUN` that writes guest memory: logged in the ring at every call, with no look at
    /// whether the page is dirty already or the ring full.
    ///
    /// # Errors
    /// `EFAULT` unless all of it is in writable memslots (what lay before is written); `EIO` from a dead VM or a forked
    /// child.
    pub fn kvm_write(&mut self, gpa: u64, data: &[u8]) -> Result<(), Errno> {
        self.ioctl(|vm, as_id| vm.write_guest(as_id, gpa, data, Writer::Other).map(drop))
    }

    /// `KVM_SET_MSRS` of the wall-clock MSR: the kernel writes the clock at `gpa` in three steps, each logged.
    ///
    /// # Errors
    /// `EINVAL` on arm64, which has no MSRs; `EIO`. Where `gpa` is not memory nothing is written and, as in the
    /// kernel, nothing is said.
    pub fn set_wall_clock(&mut self, gpa: u64, seconds: u32, nanoseconds: u32) -> Result<(), Errno> {
        if self.vm.profile().arch() != Arch::X86 {
            return Err(Errno::EINVAL);
        }
        self.ioctl(|vm, as_id| {
            let mut version = [0; 4];
            if vm.read_guest(as_id, gpa, &mut version).is_err() {
                return Ok(());
            }
            // Odd while the rest is being written, as `kvm_write_wall_clock` does.
            let odd = u32::from_ne_bytes(version) | 1;
            let mut clock = [0; 12];
            clock[..4].copy_from_slice(&odd.to_ne_bytes());
            clock[4..8].copy_from_slice(&seconds.to_ne_bytes());
            clock[8..].copy_from_slice(&nanoseconds.to_ne_bytes());
            for part in [&clock[..4], &clock[..], &odd.wrapping_add(1).to_ne_bytes()[..]] {
                if vm.write_guest(as_id, gpa, part, Writer::Other).is_err() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The data of the input that [`Exit::IoIn`] asked for; the next `KVM_RUN` writes it to guest memory.
    ///
    /// # Errors
    /// `EINVAL` if no input is pending or `data` has another length.
    pub fn set_io_data(&mut self, data: &[u8]) -> Result<(), Errno> {
        match &mut self.core.pending_io {
            Some(pending) if pending.data.len() == data.len() => {
                pending.data.copy_from_slice(data);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// `KVM_ENABLE_CAP` on the vCPU descriptor.
    ///
    /// # Errors
    /// Always `EINVAL`: every capability of dirty tracking is a VM's.
    pub const fn enable_cap(&self, _cap: &EnableCap) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    /// Whether it has been in `KVM_RUN` at least once.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.shared.has_run.load(Ordering::Relaxed)
    }

    /// Runs `body` as a vCPU ioctl: under the vCPU's mutex and with the vCPU loaded.
    fn ioctl(&mut self, body: impl FnOnce(&VmInner, u16) -> Result<(), Errno>) -> Result<(), Errno> {
        struct Unlock<'a>(&'a IoctlLock);
        impl Drop for Unlock<'_> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        self.vm.inner().check_alive()?;
        self.shared.ioctl.lock();
        let _unlock = Unlock(&self.shared.ioctl);
        let _loaded = Loaded::new(&self.shared);
        body(self.vm.inner(), self.core.as_id)
    }
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}
