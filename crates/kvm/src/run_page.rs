//! The run structure that a vCPU shares with the kernel.

#![allow(unsafe_code, reason = "struct kvm_run is memory shared with the kernel")]

use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering, fence};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, kvm_run,
};
use ringmark_abi::{Errno, exit};

use crate::exit::Exit;
use crate::mapping::Mapping;

/// `struct kvm_run`, the page of port data behind it, and who is in `KVM_RUN`.
///
/// No reference to the structure as a whole is ever made: `immediate_exit` is an atomic that any thread may write,
/// and all else is read through raw pointers by the vCPU's owner while the vCPU is out of `KVM_RUN`.
#[derive(Debug)]
pub(crate) struct RunPage {
    mapping: Mapping,
    /// A kick that no `run` has answered yet; unlike `immediate_exit` it is set by kicks alone.
    kicked: AtomicBool,
    /// The thread in `KVM_RUN`, or 0.
    runner: AtomicI32,
}

impl RunPage {
    /// Maps the first `len` bytes of the vCPU behind `fd`; `len` is `KVM_GET_VCPU_MMAP_SIZE`.
    pub(crate) fn new(fd: &impl AsRawFd, len: usize) -> Result<Self, Errno> {
        if len < size_of::<kvm_run>() {
            return Err(Errno::EINVAL);
        }
        let mapping = Mapping::new(fd, 0, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)?;
        Ok(Self { mapping, kicked: AtomicBool::new(false), runner: AtomicI32::new(0) })
    }

    fn run(&self) -> *mut kvm_run {
        self.mapping.start().cast::<kvm_run>().as_ptr()
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in the mapping (its length was checked), lives as long as `self`, and is accessed
        // through this atomic only; the kernel reads it and writes it never.
        unsafe { &*self.run().cast::<u8>().add(offset_of!(kvm_run, immediate_exit)).cast::<AtomicU8>() }
    }

    /// Sets or clears `immediate_exit`.
    pub(crate) fn set_immediate_exit(&self, on: bool) {
        self.immediate_exit().store(u8::from(on), Ordering::SeqCst);
    }

    /// A kick's first half.
    pub(crate) fn request(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.set_immediate_exit(true);
    }

    /// Takes back `immediate_exit` and every kick so far.
    pub(crate) fn answer(&self) {
        // Read-modify-writes, so that they synchronise with the kicks they clear. In this order a kick that falls
        // between them leaves `immediate_exit` set, which costs one more `Interrupted` and loses nothing.
        self.immediate_exit().swap(0, Ordering::SeqCst);
        self.kicked.swap(false, Ordering::SeqCst);
    }

    /// Takes back an `immediate_exit` that was no kick.
    pub(crate) fn settle(&self) {
        self.set_immediate_exit(false);
        if self.kicked.load(Ordering::SeqCst) {
            self.set_immediate_exit(true);
        }
    }

    /// The thread in `KVM_RUN`, or 0.
    pub(crate) fn runner(&self) -> i32 {
        self.runner.load(Ordering::SeqCst)
    }

    /// Announces that `thread` is about to enter `KVM_RUN`.
    pub(crate) fn enter(&self, thread: i32) {
        self.runner.store(thread, Ordering::SeqCst);
        // The announcement is visible before the kernel reads `immediate_exit`: the other half is in `Kick::kick`.
        fence(Ordering::SeqCst);
    }

    /// Says that `KVM_RUN` has returned.
    pub(crate) fn leave(&self) {
        self.runner.store(0, Ordering::SeqCst);
    }

    /// What `KVM_RUN` returned 0 for.
    ///
    /// # Safety
    /// The caller is the vCPU's owner: it is not in `KVM_RUN`, will not enter it for `'a`, and holds no earlier exit.
    pub(crate) unsafe fn exit<'a>(&'a self) -> Result<Exit<'a>, Errno> {
        let run = self.run();
        // SAFETY: the mapping holds a kvm_run; the kernel does not write it while the vCPU is out (the caller's
        // promise).
        let reason = unsafe { (&raw const (*run).exit_reason).read_volatile() };
        // SAFETY: the address of a field of the mapped kvm_run; nothing is read.
        let detail = unsafe { &raw mut (*run).__bindgen_anon_1 };
        Ok(match reason {
            KVM_EXIT_IO => {
                // SAFETY: as above, and KVM_EXIT_IO says that `io` is the live member.
                let io = unsafe { (&raw const (*detail).io).read_volatile() };
                let bytes = usize::from(io.size) * usize::try_from(io.count).map_err(|_| Errno::EIO)?;
                let start = usize::try_from(io.data_offset).map_err(|_| Errno::EIO)?;
                let end = start.checked_add(bytes);
                if start < size_of::<kvm_run>() || end.is_none_or(|end| end > self.mapping.len()) {
                    return Err(Errno::EIO);
                }
                // SAFETY: the bytes lie in the mapping and behind kvm_run (both checked), where nothing else points,
                // and are the caller's until the next KVM_RUN.
                let data = unsafe { slice::from_raw_parts_mut(run.cast::<u8>().add(start), bytes) };
                if u32::from(io.direction) == KVM_EXIT_IO_IN {
                    Exit::IoIn { port: io.port, width: io.size, data }
                } else {
                    Exit::IoOut { port: io.port, width: io.size, data }
                }
            }
            KVM_EXIT_MMIO => {
                // SAFETY: as above, and KVM_EXIT_MMIO says that `mmio` is the live member.
                let mmio = unsafe { &mut (*detail).mmio };
                let len = usize::try_from(mmio.len).map_err(|_| Errno::EIO)?;
                let data = mmio.data.get_mut(..len).ok_or(Errno::EIO)?;
                if mmio.is_write != 0 {
                    Exit::MmioWrite { address: mmio.phys_addr, data }
                } else {
                    Exit::MmioRead { address: mmio.phys_addr, data }
                }
            }
            KVM_EXIT_HLT => Exit::Hlt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_SYSTEM_EVENT => {
                // SAFETY: as above, and KVM_EXIT_SYSTEM_EVENT says that `system_event` is the live member.
                Exit::SystemEvent { kind: unsafe { (*detail).system_event.type_ } }
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: as above, and KVM_EXIT_FAIL_ENTRY says that `fail_entry` is the live member.
                let failed = unsafe { (*detail).fail_entry };
                Exit::FailEntry { reason: failed.hardware_entry_failure_reason, cpu: failed.cpu }
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: as above, and KVM_EXIT_INTERNAL_ERROR says that `internal` is the live member.
                Exit::InternalError { suberror: unsafe { (*detail).internal.suberror } }
            }
            exit::DIRTY_RING_FULL => Exit::DirtyRingFull,
            other => Exit::Other(other),
        })
    }
}
