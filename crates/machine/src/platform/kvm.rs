//! Machines on `/dev/kvm`.

#[cfg(target_arch = "aarch64")]
#[path = "kvm/arm64.rs"]
mod target;
#[cfg(target_arch = "x86_64")]
#[path = "kvm/x86.rs"]
mod target;

use std::sync::Arc;

use ringmark_abi::Errno;
use ringmark_kvm::{Exit, Kick, System, Vcpu, VcpuState, Vm, VmState};
use vmm_sys_util::eventfd::EventFd;

use super::{PlatformError, PlatformSaved, Processor};
use crate::codec;
use crate::cpu::{Cpu, CpuError, End, Opaque, Return, Wiring};
use crate::devices::{NOBODY, PortEffect, Ports};
use crate::layout::AddressMap;

pub(crate) use target::{
    FRAMES, KERNEL_WRITES, MAP, Start, enter, load_guest, load_kernel, processor_of, wait_for_start,
};

/// What the state of a VM beside its vCPUs is called.
const DEVICES: &str = "the machine's devices";

/// A VM of the kernel with the platform devices that the kernel holds.
#[derive(Debug)]
pub(crate) struct KvmPlatform {
    #[cfg_attr(
        target_arch = "aarch64",
        expect(dead_code, reason = "asked for processor features, which x86 has")
    )]
    system: System,
    vm: Vm,
    serial_interrupt: EventFd,
    /// What the vCPUs offer, and how many ITSs there are, once they are built.
    processor: Processor,
    translators: Option<u32>,
}

impl KvmPlatform {
    /// A VM without devices, vCPUs and memslots: the moment at which tracking is negotiated.
    pub(crate) fn new() -> Result<Self, PlatformError> {
        let system = System::open()?;
        let vm = system.create_vm().map_err(refused("creating a VM"))?;
        let serial_interrupt = EventFd::new(libc::EFD_NONBLOCK).map_err(PlatformError::Events)?;
        Ok(Self { system, vm, serial_interrupt, processor: Processor::default(), translators: None })
    }

    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    pub(crate) const fn translators(&self) -> Option<u32> {
        self.translators
    }

    pub(crate) fn processor(&self) -> Processor {
        self.processor.clone()
    }

    /// The event that raises the serial port's interrupt.
    pub(crate) fn serial_interrupt(&self) -> Result<EventFd, PlatformError> {
        self.serial_interrupt.try_clone().map_err(PlatformError::Events)
    }

    fn create_vcpu(&self, index: u32) -> Result<Vcpu, PlatformError> {
        self.vm.create_vcpu(index).map_err(|error| PlatformError::Refused {
            doing: format!("creating vCPU {index} ({error})"),
            errno: error.into(),
        })
    }

    fn save_devices(&self) -> Result<(VmState, Opaque), PlatformError> {
        let state = self.vm.state().map_err(|e| device_error(&e))?;
        let devices = encode(DEVICES, &state)?;
        Ok((state, Opaque(devices)))
    }

    fn load_devices(&self, saved: &PlatformSaved) -> Result<(), PlatformError> {
        let state: VmState = decode(DEVICES, &saved.devices.0)?;
        self.vm.set_state(&state).map_err(|e| device_error(&e))
    }
}

fn device_error(error: &ringmark_kvm::StateError) -> PlatformError {
    PlatformError::State { part: DEVICES.into(), what: error.to_string() }
}

fn encode<T: serde::Serialize>(part: &str, state: &T) -> Result<Vec<u8>, PlatformError> {
    codec::encode(state).map_err(|what| PlatformError::State { part: part.into(), what })
}

fn decode<T: serde::de::DeserializeOwned>(part: &str, bytes: &[u8]) -> Result<T, PlatformError> {
    codec::decode(bytes).map_err(|what| PlatformError::State { part: part.into(), what })
}

fn refused(doing: impl Into<String>) -> impl FnOnce(Errno) -> PlatformError {
    PlatformError::refused(doing)
}

/// A vCPU of the kernel.
#[derive(Debug)]
pub(crate) struct KvmCpu {
    vcpu: Vcpu,
    ports: Arc<Ports>,
}

impl KvmCpu {
    pub(crate) fn new(vcpu: Vcpu, ports: Arc<Ports>) -> Self {
        Self { vcpu, ports }
    }

    pub(crate) fn kick_handle(&self) -> Kick {
        self.vcpu.kick_handle()
    }

    fn error(&self, what: impl Into<String>) -> CpuError {
        CpuError { vcpu: self.vcpu.id(), what: what.into() }
    }
}

/// What follows from an access to a device.
fn after(effect: PortEffect) -> Option<Return> {
    match effect {
        PortEffect::None => None,
        PortEffect::Reset => Some(Return::End(End::Shutdown)),
        PortEffect::Exit(code) => Some(Return::End(End::Exit(code))),
    }
}

/// Answers an exit that a device can answer; any other is handed back.
fn serve(exit: Exit<'_>, ports: &Ports) -> Result<Option<Return>, String> {
    match exit {
        Exit::IoOut { port, width, data } => {
            Ok(data.chunks(usize::from(width.max(1))).find_map(|access| after(ports.write(port, access))))
        }
        Exit::IoIn { port, width, data } => {
            data.chunks_mut(usize::from(width.max(1))).for_each(|access| ports.read(port, access));
            Ok(None)
        }
        Exit::MmioRead { address, data } => {
            match MAP {
                AddressMap::Board => ports.read_mapped(address, data),
                AddressMap::Pc => data.fill(NOBODY),
            }
            Ok(None)
        }
        Exit::MmioWrite { address, data } => Ok(match MAP {
            AddressMap::Board => after(ports.write_mapped(address, data)),
            AddressMap::Pc => None,
        }),
        Exit::DirtyRingFull => Ok(Some(Return::RingFull)),
        // A full ring may hide behind an interruption; the next entry reports it.
        Exit::Interrupted => Ok(Some(Return::Kicked)),
        // On x86 this exit has one cause (`handle_triple_fault`).
        Exit::Shutdown => Ok(Some(Return::End(End::TripleFault))),
        Exit::Hlt | Exit::SystemEvent { .. } => Ok(Some(Return::End(End::Shutdown))),
        Exit::FailEntry { reason, cpu } => {
            Err(format!("the processor refused to enter the guest (reason {reason:#x}, host CPU {cpu})"))
        }
        Exit::InternalError { suberror } => {
            Err(format!("KVM met what it cannot emulate (suberror {suberror})"))
        }
        other => Err(format!("KVM left the guest for a reason this machine has no device for: {other:?}")),
    }
}

impl Cpu for KvmCpu {
    fn run(&mut self) -> Result<Return, CpuError> {
        loop {
            let served = match self.vcpu.run() {
                Ok(exit) => serve(exit, &self.ports),
                Err(errno) => Err(format!("KVM_RUN failed: {errno}")),
            };
            match served {
                Ok(None) => {}
                Ok(Some(returned)) => return Ok(returned),
                Err(what) => return Err(self.error(what)),
            }
        }
    }

    fn save(&mut self) -> Result<Opaque, String> {
        let state = self.vcpu.state().map_err(|e| e.to_string())?;
        codec::encode(&state).map(Opaque)
    }

    fn load(&mut self, saved: &Opaque, _wiring: Wiring) -> Result<(), PlatformError> {
        let part = format!("vCPU {}", self.vcpu.id());
        let state: VcpuState = decode(&part, &saved.0)?;
        self.vcpu.set_state(&state).map_err(|e| PlatformError::State { part, what: e.to_string() })
    }
}
