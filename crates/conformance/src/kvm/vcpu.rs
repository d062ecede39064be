//! A vCPU of `/dev/kvm`.

#![allow(unsafe_code, reason = "one ioctl that no vCPU of ringmark-kvm has, because it always fails")]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use ringmark_abi::{EnableCap, Errno, Vm as _};
use ringmark_dirty::RingMemory;
use ringmark_kvm::{Exit as KvmExit, Vcpu};

use super::guest::{Guest, PORT_DONE, PORT_INPUT};
use super::mapping::KvmMapping;
use super::vm::Shared;
use crate::target::{Exit, Kicker, MapRequest, Mapping, Program, TestVcpu};
use crate::verdict::{Must, Stop, Tried};

/// `KVM_DIRTY_LOG_PAGE_OFFSET`.
const RING_PAGE: u64 = 64;
/// `MSR_KVM_WALL_CLOCK_NEW`.
const WALL_CLOCK: u32 = 0x4b56_4d00;
/// `KVM_ENABLE_CAP`.
const ENABLE_CAP: libc::c_ulong = 0x4068_aea3;

/// The vCPU goes before the VM and the guest's memory.
#[derive(Debug)]
pub(super) struct KvmVcpu {
    vcpu: Vcpu,
    shared: Arc<Shared>,
    prepared: bool,
    input: u8,
}

impl KvmVcpu {
    pub(super) fn new(vcpu: Vcpu, shared: Arc<Shared>) -> Self {
        Self { vcpu, shared, prepared: false, input: 0 }
    }

    fn prepare(&mut self) -> Result<(), Stop> {
        let cpuid = self.shared.system.supported_cpuid().must("KVM_GET_SUPPORTED_CPUID")?;
        self.vcpu.set_cpuid(&cpuid).must("KVM_SET_CPUID2")?;
        Guest::prepare(&mut self.vcpu).must("KVM_SET_SREGS")?;
        self.prepared = true;
        Ok(())
    }

    fn guest(&self) -> Result<&Guest, Stop> {
        if let Some(guest) = self.shared.guest.get() {
            return Ok(guest);
        }
        let guest = Guest::new(&self.shared.vm)
            .map_err(|error| Stop::Broken(format!("the guest's own memory cannot be set up: {error}")))?;
        Ok(self.shared.guest.get_or_init(|| guest))
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
        if !self.prepared {
            self.prepare()?;
        }
        if let Program::InputString { byte, .. } = program {
            self.input = *byte;
        }
        self.guest()?;
        let list = u64::from(self.vcpu.id());
        let Self { vcpu, shared, .. } = self;
        match shared.guest.get() {
            Some(guest) => guest.start(vcpu, list, program).must("KVM_SET_REGS"),
            None => Err(Stop::Broken("the guest has no memory".into())),
        }
    }

    fn run(&mut self) -> Result<Exit, Errno> {
        let input = self.input;
        Ok(match self.vcpu.run()? {
            KvmExit::IoOut { port: PORT_DONE, .. } => Exit::Done,
            KvmExit::IoIn { port: PORT_INPUT, data, .. } => {
                data.fill(input);
                Exit::Input
            }
            KvmExit::DirtyRingFull => Exit::DirtyRingFull,
            KvmExit::MmioWrite { address, .. } => Exit::MmioWrite(address),
            KvmExit::MmioRead { address, .. } => Exit::MmioRead(address),
            KvmExit::Interrupted => return Err(Errno::EINTR),
            other => Exit::Other(format!("{other:?}")),
        })
    }

    fn set_immediate_exit(&mut self, on: bool) {
        self.vcpu.set_immediate_exit(on);
    }

    fn write_wall_clock(&mut self, gpa: u64) -> Tried<()> {
        Ok(self.vcpu.set_msr(WALL_CLOCK, gpa))
    }

    fn kicker(&self) -> Kicker {
        let kick = self.vcpu.kick_handle();
        Arc::new(move || {
            // The one error says that too many signals are pending; then the next run still ends at once.
            let _ = kick.kick();
        })
    }
}
