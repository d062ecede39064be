//! Machines on `/dev/kvm` of x86-64: a PC reduced to what a guest with a PVH entry needs.

use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MP_STATE_RUNNABLE, kvm_regs, kvm_segment};
use ringmark_kvm::{Exit, Kick, System, Vcpu, Vm};
use ringmark_kvm::{VcpuState, VmState};
use vmm_sys_util::eventfd::EventFd;

use super::{PlatformError, PlatformSaved};
use crate::boot::pvh::Handoff;
use crate::codec;
use crate::cpu::{Cpu, CpuError, End, Opaque, Return};
use crate::devices::{PortEffect, Ports};

/// What Intel's real mode needs, at the end of the hole below 4 GiB.
const TSS_ADDRESS: u32 = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// The interrupt line of COM1.
const SERIAL_GSI: u32 = 4;
/// `CR0.PE` and `CR0.ET`: protected mode without paging.
const CR0_PROTECTED: u64 = 0x11;

/// A VM of the kernel with the platform devices that the kernel holds.
#[derive(Debug)]
pub(crate) struct KvmPlatform {
    system: System,
    vm: Vm,
    serial_interrupt: EventFd,
}

impl KvmPlatform {
    /// A VM without devices, vCPUs and memslots: the moment at which tracking is negotiated.
    pub(crate) fn new() -> Result<Self, PlatformError> {
        let system = System::open()?;
        let vm = system.create_vm().map_err(PlatformError::refused("creating a VM"))?;
        let serial_interrupt = EventFd::new(libc::EFD_NONBLOCK).map_err(PlatformError::Events)?;
        Ok(Self { system, vm, serial_interrupt })
    }

    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The event that raises COM1's interrupt.
    pub(crate) fn serial_interrupt(&self) -> Result<EventFd, PlatformError> {
        self.serial_interrupt.try_clone().map_err(PlatformError::Events)
    }

    /// Interrupt controllers and timer. Before the first vCPU, after tracking is negotiated.
    pub(crate) fn create_devices(&self) -> Result<(), PlatformError> {
        let refused = refused_by_kernel;
        self.vm.set_tss_address(TSS_ADDRESS).map_err(refused("reserving the task segment"))?;
        self.vm
            .set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(refused("reserving the identity map"))?;
        self.vm.create_irqchip().map_err(refused("creating the interrupt controllers"))?;
        self.vm.create_pit2().map_err(refused("creating the timer"))?;
        self.vm
            .register_irqfd(&self.serial_interrupt, SERIAL_GSI)
            .map_err(refused("wiring the serial port's interrupt"))
    }

    /// The next vCPU, with the host's processor features and its own number in the leaves that carry one.
    pub(crate) fn create_vcpu(&self, index: u32) -> Result<Vcpu, PlatformError> {
        let mut vcpu = self.vm.create_vcpu(index).map_err(|error| PlatformError::Refused {
            doing: format!("creating vCPU {index} ({error})"),
            errno: error.into(),
        })?;
        let mut cpuid = self
            .system
            .supported_cpuid()
            .map_err(PlatformError::refused("reading the processor features of the host"))?;
        number_leaves(&mut cpuid, index);
        vcpu.set_cpuid(&cpuid)
            .map_err(PlatformError::refused(format!("giving vCPU {index} its processor features")))?;
        Ok(vcpu)
    }

    /// What the kernel holds beside the vCPUs.
    pub(crate) fn save(&self) -> Result<PlatformSaved, PlatformError> {
        let state = self.vm.state().map_err(|e| PlatformError::State {
            part: "the machine's devices".into(),
            what: e.to_string(),
        })?;
        let absent = state.absent.iter().map(|absent| absent.what.to_string()).collect();
        let devices = Opaque(encode("the machine's devices", &state)?);
        Ok(PlatformSaved { devices, absent })
    }

    /// Puts back what [`save`](Self::save) took. After all vCPUs are created, before any runs.
    pub(crate) fn restore(&self, saved: &PlatformSaved) -> Result<(), PlatformError> {
        let part = || "the machine's devices".to_owned();
        let state: VmState = decode(&part(), &saved.devices.0)?;
        self.vm.set_state(&state).map_err(|e| PlatformError::State { part: part(), what: e.to_string() })
    }
}

fn encode<T: serde::Serialize>(part: &str, state: &T) -> Result<Vec<u8>, PlatformError> {
    codec::encode(state).map_err(|what| PlatformError::State { part: part.into(), what })
}

fn decode<T: serde::de::DeserializeOwned>(part: &str, bytes: &[u8]) -> Result<T, PlatformError> {
    codec::decode(bytes).map_err(|what| PlatformError::State { part: part.into(), what })
}

/// Writes the vCPU's number where a guest looks for it: the initial APIC id of leaf 1, the x2APIC id of leaves 0xb and
/// 0x1f. KVM hands out the host's own.
fn number_leaves(cpuid: &mut CpuId, index: u32) {
    const HYPERVISOR: u32 = 1 << 31;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x00ff_ffff | index << 24;
                entry.ecx |= HYPERVISOR;
            }
            0xb | 0x1f => entry.edx = index,
            _ => {}
        }
    }
}

/// Puts a vCPU at the PVH entry: 32-bit protected mode, flat segments, paging off, `ebx` at the start information.
pub(crate) fn enter_pvh(vcpu: &mut Vcpu, handoff: &Handoff) -> Result<(), PlatformError> {
    let refused = refused_by_kernel;
    let mut sregs = vcpu.sregs().map_err(refused("reading segment registers"))?;
    let flat = |type_, selector| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    let data = flat(0x3, 0x10);
    sregs.cs = flat(0xb, 0x8);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: 0xb, present: 1, ..Default::default() };
    sregs.gdt.base = handoff.descriptors.into();
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PROTECTED;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).map_err(refused("setting segment registers"))?;
    let regs = kvm_regs {
        rip: handoff.entry.into(),
        rbx: handoff.start_info.into(),
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(refused("setting registers"))?;
    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE).map_err(refused("making the vCPU runnable"))
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

/// Answers an exit that a device can answer; any other is handed back.
fn serve(exit: Exit<'_>, ports: &Ports) -> Result<Option<Return>, String> {
    match exit {
        Exit::IoOut { port, width, data } => {
            for access in data.chunks(usize::from(width.max(1))) {
                match ports.write(port, access) {
                    PortEffect::None => {}
                    PortEffect::Reset => return Ok(Some(Return::End(End::Shutdown))),
                    PortEffect::Exit(code) => return Ok(Some(Return::End(End::Exit(code)))),
                }
            }
            Ok(None)
        }
        Exit::IoIn { port, width, data } => {
            data.chunks_mut(usize::from(width.max(1))).for_each(|access| ports.read(port, access));
            Ok(None)
        }
        // Nothing lies outside memory: reads give ones, as on a bus that nobody drives.
        Exit::MmioRead { data, .. } => {
            data.fill(0xff);
            Ok(None)
        }
        Exit::MmioWrite { .. } => Ok(None),
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
}

/// Puts a saved state into a fresh vCPU.
pub(crate) fn restore_vcpu(vcpu: &mut Vcpu, saved: &Opaque) -> Result<(), PlatformError> {
    let part = format!("vCPU {}", vcpu.id());
    let state: VcpuState = decode(&part, &saved.0)?;
    vcpu.set_state(&state).map_err(|e| PlatformError::State { part, what: e.to_string() })
}

fn refused_by_kernel(doing: &'static str) -> impl FnOnce(ringmark_abi::Errno) -> PlatformError {
    PlatformError::refused(doing)
}
