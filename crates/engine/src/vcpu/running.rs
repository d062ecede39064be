//! A vCPU inside `KVM_RUN`.

use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, atomic::Ordering},
};

use ringmark_abi::Errno;
use ringmark_dirty::PageSize;

use super::{Exit, Vcpu, loaded::Loaded, store::PendingIo};
use crate::{
    profile::Arch,
    sync::lock,
    vm::{Marked, Writer},
};

/// A vCPU in the guest; dropping it returns from `KVM_RUN`.
///
/// While it lives the vCPU is *loaded* on this thread: whatever the thread writes on KVM's behalf is logged in this
/// vCPU's ring. An [`Exit`] ends the run (and empties the page-modification log); the next access begins another one, with
/// all its entry checks, so a caller may keep the value and repeat the access once the exit is dealt with.
pub struct Running<'a> {
    pub(super) vcpu: &'a mut Vcpu,
    /// Present while inside the ioctl.
    loaded: Option<Loaded>,
    /// What is loaded is a matter of this thread.
    _thread: PhantomData<*const ()>,
}

impl<'a> Running<'a> {
    pub(super) fn enter(vcpu: &'a mut Vcpu) -> Result<Self, Exit> {
        let mut running = Self { vcpu, loaded: None, _thread: PhantomData };
        running.begin()?;
        Ok(running)
    }

    /// The vCPU.
    #[must_use]
    pub fn vcpu(&self) -> &Vcpu {
        self.vcpu
    }

    /// Guest code that touches no memory: the moment at which a kick, a signal or a full ring is noticed.
    ///
    /// # Errors
    /// The [`Exit`] that was due.
    pub fn poll(&mut self) -> Result<(), Exit> {
        self.in_run(Self::check_requests)
    }

    /// One store of the guest to `gpa`, which must not cross a page.
    ///
    /// The first store to a page since its re-protection faults and is logged; a full ring is an exit *before* the store,
    /// with its entry already pushed. With a page-modification log the store comes first and the entry at the next exit.
    /// An address in no memslot goes to the device registered there, else it is an exit.
    ///
    /// # Errors
    /// The [`Exit`] that ended the run; see there for whether the store has happened.
    pub fn store(&mut self, gpa: u64, data: &[u8]) -> Result<(), Exit> {
        self.in_run(|running| running.guest_store(gpa, data))
    }

    /// One load of the guest from `gpa`, which must not cross a page.
    ///
    /// # Errors
    /// As [`store`](Self::store). Where read faults log, a full ring ends a load too.
    pub fn load(&mut self, gpa: u64, data: &mut [u8]) -> Result<(), Exit> {
        self.in_run(|running| running.guest_load(gpa, data))
    }

    /// A string input of `len` bytes from `port` to guest memory at `gpa`: always an exit, [`Exit::IoIn`], whose data
    /// is written when the vCPU next runs.
    pub fn string_in(&mut self, port: u16, gpa: u64, len: usize) -> Exit {
        let result = self.in_run(|running| {
            if !within_page(running.vcpu.vm.profile().host_page_size(), gpa, len) {
                return Err(Exit::Failed(Errno::EINVAL));
            }
            running.vcpu.core.pending_io = Some(PendingIo { gpa, data: vec![0; len] });
            Err::<(), _>(Exit::IoIn { port, len })
        });
        result.err().unwrap_or(Exit::IoIn { port, len })
    }

    /// A write of the kernel's own on behalf of this vCPU (emulated instruction, clock page): logged at every call.
    ///
    /// # Errors
    /// [`Exit::Failed`] with `EFAULT` unless all of it is in writable memslots.
    pub fn kvm_write(&mut self, gpa: u64, data: &[u8]) -> Result<Marked, Exit> {
        self.in_run(|running| {
            let vcpu = &*running.vcpu;
            vcpu.vm.inner().write_guest(vcpu.core.as_id, gpa, data, Writer::Other).map_err(Exit::Failed)
        })
    }

    /// Runs `body` inside the ioctl, which an exit ends.
    #[inline]
    fn in_run<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T, Exit>) -> Result<T, Exit> {
        if self.loaded.is_none() {
            self.begin()?;
        }
        let result = body(self);
        if result.is_err() {
            self.end();
        }
        result
    }

    /// `kvm_arch_vcpu_ioctl_run` up to the guest.
    fn begin(&mut self) -> Result<(), Exit> {
        let vcpu = &mut *self.vcpu;
        vcpu.vm.inner().check_alive().map_err(Exit::Failed)?;
        vcpu.shared.ioctl.lock();
        self.loaded = Some(Loaded::new(&vcpu.shared));
        vcpu.shared.has_run.store(true, Ordering::Relaxed);
        let entered = self.enter_guest();
        if entered.is_err() {
            self.end();
        }
        entered
    }

    fn enter_guest(&mut self) -> Result<(), Exit> {
        let vcpu = &mut *self.vcpu;
        vcpu.vm.inner().check_resume();
        // Before `immediate_exit`: completing an instruction writes guest memory even if nothing runs (`complete_userspace_io`).
        if let Some(io) = vcpu.core.pending_io.take() {
            let written = vcpu.vm.inner().write_guest(vcpu.core.as_id, io.gpa, &io.data, Writer::Other);
            written.map_err(Exit::Failed)?;
        }
        if vcpu.shared.requests.immediate_exit() {
            // The signal that came with it is delivered on the way out.
            vcpu.shared.requests.take_signal();
            return Err(Exit::Interrupted);
        }
        self.check_requests()
    }

    /// What a vCPU looks at before every entry into guest code (x86 `vcpu_enter_guest`, arm64 `check_vcpu_requests`).
    pub(super) fn check_requests(&mut self) -> Result<(), Exit> {
        if !self.vcpu.shared.requests.any() {
            return Ok(());
        }
        if self.vcpu.shared.requests.take_leave_guest() {
            self.flush_pml();
        }
        match self.vcpu.vm.profile().arch() {
            Arch::X86 => self.check_ring().and_then(|()| self.check_signal()),
            Arch::Arm64 => self.check_signal().and_then(|()| self.check_ring()),
        }
    }

    /// `kvm_dirty_ring_check_request`: the request stays up for as long as the ring is full, and is dropped if a reset
    /// has made room.
    fn check_ring(&self) -> Result<(), Exit> {
        let shared = &self.vcpu.shared;
        let full =
            shared.requests.take_soft_full() && shared.ring.as_ref().is_some_and(|ring| ring.is_soft_full());
        if full {
            shared.requests.soft_full();
            self.vcpu.vm.inner().stats.ring_full_exits.add(1);
            return Err(Exit::DirtyRingFull);
        }
        Ok(())
    }

    fn check_signal(&self) -> Result<(), Exit> {
        if self.vcpu.shared.requests.take_signal() { Err(Exit::Interrupted) } else { Ok(()) }
    }

    /// `vmx_flush_pml_buffer`, at every exit from guest mode: the pages go where `mark_page_dirty` sends them.
    pub(super) fn flush_pml(&self) {
        let (vm, shared) = (self.vcpu.vm.inner(), &self.vcpu.shared);
        if vm.profile.pml == 0 {
            return;
        }
        // Marked under the lock, so that who looks at log and ring together misses no page between them.
        let mut pml = lock(&shared.pml);
        let memslots = vm.memslots();
        for (as_id, gfn) in pml.take() {
            if let Some((slot, offset)) = memslots.find(as_id, gfn)
                && slot.is_logging()
            {
                vm.log(Some(shared), slot, offset);
            }
        }
    }

    fn end(&mut self) {
        if self.loaded.is_some() {
            self.flush_pml();
            self.loaded = None;
            self.vcpu.shared.ioctl.unlock();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("vcpu", &Arc::as_ref(&self.vcpu.shared)).finish()
    }
}

/// Whether `len` bytes at `gpa` lie in one page.
pub(super) fn within_page(size: PageSize, gpa: u64, len: usize) -> bool {
    let room = size.bytes() - (gpa & (size.bytes() - 1));
    u64::try_from(len).is_ok_and(|len| len <= room)
}
