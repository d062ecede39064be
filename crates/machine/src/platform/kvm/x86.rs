//! A PC reduced to what a guest with a PVH entry needs.

#[path = "x86/features.rs"]
mod features;

use kvm_bindings::{CpuId, KVM_MP_STATE_RUNNABLE, kvm_cpuid_entry2, kvm_regs, kvm_segment};
use ringmark_guest::Config;
use ringmark_kvm::{Vcpu, VcpuState};
use ringmark_track::KernelWrites;

use super::{KvmPlatform, decode, refused};
use crate::boot::pvh::{self, Handoff};
use crate::boot::{BootError, elf};
use crate::cpu::Opaque;
use crate::layout::AddressMap;
use crate::machine::CreateError;
use crate::platform::processor::Leaf;
use crate::platform::{ControllerFrames, PlatformError, PlatformSaved, Processor, Shape};
use crate::ram::Ram;

/// Where memory lies.
pub(crate) const MAP: AddressMap = AddressMap::Pc;

/// What Intel's real mode needs, at the end of the hole below 4 GiB.
const TSS_ADDRESS: u32 = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// The interrupt line of COM1.
const SERIAL_GSI: u32 = 4;
/// `CR0.PE` and `CR0.ET`: protected mode without paging.
const CR0_PROTECTED: u64 = 0x11;

/// Nothing in the kernel writes guest memory beside the vCPUs.
pub(crate) const KERNEL_WRITES: KernelWrites = KernelWrites::None;

/// The interrupt controller is none that built-in guests program.
pub(crate) const FRAMES: Option<ControllerFrames> = None;

/// What a vCPU is started with.
pub(crate) type Start = Handoff;

/// Loads an ELF image with a PVH entry.
pub(crate) fn load_kernel(
    ram: &Ram,
    _shape: Shape,
    image: &[u8],
    command_line: &str,
) -> Result<Start, BootError> {
    let loaded = elf::load(ram.guest(), image)?;
    Ok(pvh::write(ram.guest(), ram.layout(), &loaded, command_line)?)
}

/// Loads the built-in guest; `publish` lays out its regions from the end of the image on.
pub(crate) fn load_guest(
    ram: &Ram,
    publish: impl FnOnce(u64) -> Result<Config, CreateError>,
) -> Result<(Start, Config), CreateError> {
    let loaded = elf::load(ram.guest(), ringmark_guest::X86_64_PVH).map_err(BootError::from)?;
    let config = publish(loaded.end)?;
    let line = format!("ringmark.mailbox={:#x}", config.mailbox);
    let start = pvh::write(ram.guest(), ram.layout(), &loaded, &line).map_err(BootError::from)?;
    Ok((start, config))
}

impl KvmPlatform {
    /// Interrupt controllers, timer and vCPUs, which offer what `processor` has, or all that this host can. After tracking
    /// is negotiated.
    pub(crate) fn build(
        &mut self,
        shape: Shape,
        processor: Option<&Processor>,
    ) -> Result<Vec<Vcpu>, PlatformError> {
        self.vm.set_tss_address(TSS_ADDRESS).map_err(refused("reserving the task segment"))?;
        self.vm
            .set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(refused("reserving the identity map"))?;
        self.vm.create_irqchip().map_err(refused("creating the interrupt controllers"))?;
        self.vm.create_pit2().map_err(refused("creating the timer"))?;
        self.vm
            .register_irqfd(&self.serial_interrupt, SERIAL_GSI)
            .map_err(refused("wiring the serial port's interrupt"))?;
        let mut cpuid = match processor {
            Some(processor) => entries(processor)?,
            None => self.supported()?,
        };
        let vcpus = (0..shape.vcpus).map(|index| {
            let mut vcpu = self.create_vcpu(index)?;
            number_leaves(&mut cpuid, index);
            vcpu.set_cpuid(&cpuid).map_err(refused(format!("giving vCPU {index} its processor features")))?;
            Ok(vcpu)
        });
        let vcpus = vcpus.collect::<Result<Vec<_>, PlatformError>>()?;
        // What they were given is not all that they offer where the processor answers by itself (`kvm_pvm`).
        if let Some(first) = vcpus.first() {
            self.processor = leaves(offered(first)?.as_slice());
        }
        Ok(vcpus)
    }

    /// What the kernel holds beside the vCPUs.
    pub(crate) fn save(&self) -> Result<PlatformSaved, PlatformError> {
        let (state, devices) = self.save_devices()?;
        let absent = state.absent.iter().map(|absent| absent.what.to_string()).collect();
        Ok(PlatformSaved { devices, absent })
    }

    /// The shape of a machine of `vcpus` whose state was saved.
    #[expect(clippy::unnecessary_wraps, reason = "other architectures read it from the state")]
    pub(crate) fn shape_of(_saved: &PlatformSaved, vcpus: u32) -> Result<Shape, PlatformError> {
        Ok(Shape { vcpus, translators: 0 })
    }

    /// Puts back what was saved, before any vCPU runs: interrupt controllers before the vCPUs, since a local APIC's state
    /// refers to theirs.
    pub(crate) fn load(
        &self,
        saved: &PlatformSaved,
        cpus: impl FnOnce() -> Result<(), PlatformError>,
    ) -> Result<(), PlatformError> {
        self.load_devices(saved)?;
        cpus()
    }

    /// The first feature that `processor` has and that vCPUs of this host cannot have.
    pub(crate) fn lacks(&self, processor: &Processor) -> Result<Option<String>, PlatformError> {
        let supported = self.supported()?;
        let given = leaves(supported.as_slice());
        let vm = self.system.create_vm().map_err(refused("creating a VM to look at"))?;
        let mut vcpu = vm.create_vcpu(0).map_err(|error| PlatformError::Refused {
            doing: format!("creating a vCPU to look at ({error})"),
            errno: error.into(),
        })?;
        vcpu.set_cpuid(&supported).map_err(refused("giving it the processor features of the host"))?;
        Ok(features::missing(processor, &[given, leaves(offered(&vcpu)?.as_slice())]))
    }

    fn supported(&self) -> Result<CpuId, PlatformError> {
        self.system.supported_cpuid().map_err(refused("reading the processor features of the host"))
    }
}

fn offered(vcpu: &Vcpu) -> Result<CpuId, PlatformError> {
    vcpu.cpuid().map_err(refused("reading a vCPU's processor features"))
}

/// What the vCPU whose state was saved offered.
pub(crate) fn processor_of(cpu: &Opaque) -> Result<Processor, PlatformError> {
    let state: VcpuState = decode("the first vCPU", &cpu.0)?;
    let entries: Vec<_> = state.cpuid.iter().map(|entry| entry.0).collect();
    Ok(leaves(&entries))
}

fn leaves(entries: &[kvm_cpuid_entry2]) -> Processor {
    let leaf = |entry: &kvm_cpuid_entry2| Leaf {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    };
    Processor { leaves: entries.iter().map(leaf).collect() }
}

fn entries(processor: &Processor) -> Result<CpuId, PlatformError> {
    let entry = |leaf: &Leaf| kvm_cpuid_entry2 {
        function: leaf.function,
        index: leaf.index,
        flags: leaf.flags,
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
        ..Default::default()
    };
    let entries: Vec<_> = processor.leaves.iter().map(entry).collect();
    CpuId::from_entries(&entries).map_err(|_| PlatformError::State {
        part: "the processor's features".into(),
        what: format!("they have {} leaves", entries.len()),
    })
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

/// Leaves a vCPU as it is after a reset: it waits for the first one's start signal.
#[expect(clippy::unnecessary_wraps, reason = "other architectures ask the kernel")]
pub(crate) fn wait_for_start(_vcpu: &mut Vcpu) -> Result<(), PlatformError> {
    Ok(())
}

/// Puts a vCPU at the PVH entry: 32-bit protected mode, flat segments, paging off, `ebx` at the start information.
pub(crate) fn enter(vcpu: &mut Vcpu, start: &Start) -> Result<(), PlatformError> {
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
    sregs.gdt.base = start.descriptors.into();
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PROTECTED;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).map_err(refused("setting segment registers"))?;
    let regs =
        kvm_regs { rip: start.entry.into(), rbx: start.start_info.into(), rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(refused("setting registers"))?;
    vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE).map_err(refused("making the vCPU runnable"))
}
