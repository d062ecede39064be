//! A vCPU of `/dev/kvm`.

#![allow(unsafe_code, reason = "one ioctl that no vCPU of ringmark-kvm has, because it always fails")]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use ringmark_abi::{EnableCap, Errno, Vm as _};
use ringmark_dirty::RingMemory;
use ringmark_kvm::Vcpu;

use super::arch::{Guest, Processor};
use super::mapping::KvmMapping;
use super::vm::Shared;
use crate::target::{Exit, Kicker, MapRequest, Mapping, Program, TestVcpu};
use crate::verdict::{Stop, Tried};

/// `KVM_DIRTY_LOG_PAGE_OFFSET`.
const RING_PAGE: u64 = 64;
/// `KVM_ENABLE_CAP`.
const ENABLE_CAP: libc::c_ulong = 0x4068_aea3;

/// The vCPU goes before the VM and the guest's memory.
#[derive(Debug)]
pub(super) struct KvmVcpu {
    vcpu: Vcpu,
    shared: Arc<Shared>,
    processor: Processor,
}

/// The guest's own memory, set up when the first program needs it.
fn guest(shared: &Shared) -> Result<&Guest, Stop> {
    if let Some(guest) = shared.guest.get() {
        return Ok(guest);
    }
    let guest = Guest::new(&shared.vm)
        .map_err(|error| Stop::Broken(format!("the guest's own memory cannot be set up: {error}")))?;
    Ok(shared.guest.get_or_init(|| guest))
}

impl KvmVcpu {
    pub(super) fn new(mut vcpu: Vcpu, shared: Arc<Shared>) -> Result<Self, Errno> {
        let processor = Processor::new(&mut vcpu)?;
        Ok(Self { vcpu, shared, processor })
    }
}

impl TestVcpu for KvmVcpu {
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        // struct kvm_enable_cap, 104 bytes: cap, flags, four arguments, padding.
        let mut raw = [0u64; 13];
        raw[0] = u64::from(cap.cap) | u64::from(cap.flags) << 32;
        raw[1..5].copy_from_slice(&cap.args);
        // SAFETY: the request reads one kvm_enable_cap, which `raw` is as large as.
        let answer = unsafe { libc::ioctl(self.vcpu.as_raw_fd(), ENABLE_CAP, raw.as_ptr()) };
        if answer < 0 {
            let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return Err(Errno::from_raw(raw));
        }
        Ok(())
    }

    fn ring(&self) -> Option<Arc<dyn RingMemory>> {
        self.vcpu.ring_memory()
    }

    fn map(&self, request: &MapRequest) -> Tried<Box<dyn Mapping>> {
        let mut prot = libc::PROT_READ;
        if request.write {
            prot |= libc::PROT_WRITE;
        }
        if request.exec {
            prot |= libc::PROT_EXEC;
        }
        let flags = if request.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let pages = usize::try_from(request.pages).unwrap_or(usize::MAX);
        let page_bytes = self.shared.vm.page_size().bytes();
        let mapped = self.vcpu.map_raw(RING_PAGE + request.first, pages, prot, flags);
        Ok(mapped.map(|mapping| Box::new(KvmMapping { mapping, page_bytes }) as Box<dyn Mapping>))
    }

    fn load(&mut self, program: &Program) -> Result<(), Stop> {
        let Self { vcpu, shared, processor } = self;
        processor.load(&shared.system, vcpu, guest(shared)?, program)
    }

    fn run(&mut self) -> Result<Exit, Errno> {
        self.processor.run(&mut self.vcpu)
    }

    fn set_immediate_exit(&mut self, on: bool) {
        self.vcpu.set_immediate_exit(on);
    }

    fn write_wall_clock(&mut self, gpa: u64) -> Tried<()> {
        Processor::write_wall_clock(&mut self.vcpu, gpa)
    }

    fn kicker(&self) -> Kicker {
        let kick = self.vcpu.kick_handle();
        Arc::new(move || {
            // The one error says that too many signals are pending; then the next run still ends at once.
            let _ = kick.kick();
        })
    }
}
