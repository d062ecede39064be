//! A PC reduced to what a guest with a PVH entry needs.

use kvm_bindings::{CpuId, KVM_MP_STATE_RUNNABLE, kvm_regs, kvm_segment};
use ringmark_guest::Config;
use ringmark_kvm::Vcpu;
use ringmark_track::KernelWrites;

use super::{KvmPlatform, refused, restore_vcpu};
use crate::boot::pvh::{self, Handoff};
use crate::boot::{BootError, elf};
use crate::cpu::Opaque;
use crate::layout::AddressMap;
use crate::machine::CreateError;
use crate::platform::{ControllerFrames, PlatformError, PlatformSaved, Shape};
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
    /// Interrupt controllers, timer and vCPUs. After tracking is negotiated.
    pub(crate) fn build(&self, shape: Shape) -> Result<Vec<Vcpu>, PlatformError> {
        self.vm.set_tss_address(TSS_ADDRESS).map_err(refused("reserving the task segment"))?;
        self.vm
            .set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(refused("reserving the identity map"))?;
        self.vm.create_irqchip().map_err(refused("creating the interrupt controllers"))?;
        self.vm.create_pit2().map_err(refused("creating the timer"))?;
        self.vm
            .register_irqfd(&self.serial_interrupt, SERIAL_GSI)
            .map_err(refused("wiring the serial port's interrupt"))?;
        let mut cpuid =
            self.system.supported_cpuid().map_err(refused("reading the processor features of the host"))?;
        let vcpus = (0..shape.vcpus).map(|index| {
            let mut vcpu = self.create_vcpu(index)?;
            number_leaves(&mut cpuid, index);
            vcpu.set_cpuid(&cpuid).map_err(refused(format!("giving vCPU {index} its processor features")))?;
            Ok(vcpu)
        });
        vcpus.collect()
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
    pub(crate) fn restore(
        &self,
        vcpus: &mut [Vcpu],
        cpus: &[Opaque],
        saved: &PlatformSaved,
    ) -> Result<(), PlatformError> {
        self.restore_devices(saved)?;
        vcpus.iter_mut().zip(cpus).try_for_each(|(vcpu, state)| restore_vcpu(vcpu, state))
    }
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
