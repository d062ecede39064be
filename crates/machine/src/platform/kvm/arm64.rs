//! A board with a VGICv3 and interrupt translation services (ITS), memory from 1 GiB on, and PSCI.

use kvm_bindings::KVM_MP_STATE_STOPPED;
use ringmark_guest::{Config, arm64};
use ringmark_kvm::gic::{addr, ctrl, device_type, group};
use ringmark_kvm::register::{PC, x};
use ringmark_kvm::{Power, StateError, Vcpu, VmState};
use ringmark_track::KernelWrites;
use vm_memory::{Bytes, GuestAddress};

use super::{DEVICES, KvmPlatform, decode, refused};
use crate::boot::{BootError, device_tree, flat};
use crate::config::MAX_TRANSLATORS;
use crate::cpu::Opaque;
use crate::layout::{AddressMap, BOARD_START, board};
use crate::machine::CreateError;
use crate::platform::{ControllerFrames, PlatformError, PlatformSaved, Processor, Shape};
use crate::ram::Ram;

/// Where memory lies.
pub(crate) const MAP: AddressMap = AddressMap::Board;

/// The interrupt controller writes its tables to guest memory with no vCPU running.
pub(crate) const KERNEL_WRITES: KernelWrites = KernelWrites::InterruptTables;

/// Where the interrupt controller lies.
pub(crate) const FRAMES: Option<ControllerFrames> = Some(ControllerFrames {
    distributor: board::DISTRIBUTOR,
    redistributors: board::REDISTRIBUTORS,
    translators: board::TRANSLATORS,
});

/// What a vCPU is started with; its number goes to `x1`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    entry: u64,
    /// For `x0`: the device tree of a kernel, the mailbox of a built-in guest.
    argument: u64,
}

/// Loads a flat image, and a device tree for it.
pub(crate) fn load_kernel(
    ram: &Ram,
    shape: Shape,
    image: &[u8],
    command_line: &str,
) -> Result<Start, BootError> {
    let loaded = flat::load(ram.guest(), BOARD_START, image)?;
    let about = device_tree::Board { vcpus: shape.vcpus, translators: shape.translators, command_line };
    let argument = device_tree::write(ram.guest(), ram.layout(), loaded.end, &about)?;
    Ok(Start { entry: loaded.entry, argument })
}

/// Loads the built-in guest; `publish` lays out its regions from the end of the image on.
pub(crate) fn load_guest(
    ram: &Ram,
    publish: impl FnOnce(u64) -> Result<Config, CreateError>,
) -> Result<(Start, Config), CreateError> {
    let config = publish(arm64::IMAGE_END)?;
    ram.guest()
        .write_slice(arm64::IMAGE, GuestAddress(arm64::ENTRY))
        .map_err(|e| CreateError::Mailbox(e.to_string()))?;
    Ok((Start { entry: arm64::ENTRY, argument: config.mailbox }, config))
}

impl KvmPlatform {
    /// Interrupt controller and vCPUs, in the one order that the kernel accepts: the VGIC is completed when all vCPUs are
    /// there, and an ITS needs it complete. After tracking is negotiated.
    pub(crate) fn build(
        &mut self,
        shape: Shape,
        _processor: Option<&Processor>,
    ) -> Result<Vec<Vcpu>, PlatformError> {
        let vgic = self.vm.create_device(device_type::ARM_VGIC_V3).map_err(refused("creating the VGIC"))?;
        let vcpus = (0..shape.vcpus).map(|index| {
            let mut vcpu = self.create_vcpu(index)?;
            vcpu.init(Power::On).map_err(refused(format!("making vCPU {index} a processor")))?;
            Ok(vcpu)
        });
        let vcpus = vcpus.collect::<Result<_, PlatformError>>()?;
        vgic.set_attr(group::ADDR, addr::V3_DIST, board::DISTRIBUTOR)
            .map_err(refused("placing the distributor"))?;
        vgic.set_attr(group::ADDR, addr::V3_REDIST, board::REDISTRIBUTORS)
            .map_err(refused("placing the redistributors"))?;
        vgic.set_attr(group::CTRL, ctrl::INIT, 0).map_err(refused("completing the VGIC"))?;
        for index in 0..shape.translators {
            let its = self.vm.create_device(device_type::ARM_VGIC_ITS).map_err(refused("creating an ITS"))?;
            its.set_attr(group::ADDR, addr::ITS, board::translator(index))
                .map_err(refused(format!("placing ITS {index}")))?;
        }
        self.translators = Some(shape.translators);
        self.vm
            .register_irqfd(&self.serial_interrupt, board::SERIAL_SPI)
            .map_err(refused("wiring the serial port's interrupt"))?;
        Ok(vcpus)
    }

    /// Has the interrupt controller write its tables to guest memory, with no vCPU running: the backup bitmap alone logs
    /// these pages. Then reads its registers.
    pub(crate) fn save(&self) -> Result<PlatformSaved, PlatformError> {
        let failed =
            |error: StateError| PlatformError::State { part: DEVICES.into(), what: error.to_string() };
        self.vm.save_pending_tables().map_err(failed)?;
        self.vm.save_its_tables().map_err(failed)?;
        let (_, devices) = self.save_devices()?;
        Ok(PlatformSaved { devices, absent: Vec::new() })
    }

    /// The shape of a machine of `vcpus` whose state was saved.
    pub(crate) fn shape_of(saved: &PlatformSaved, vcpus: u32) -> Result<Shape, PlatformError> {
        let state: VmState = decode(DEVICES, &saved.devices.0)?;
        let translators = u32::try_from(state.its.len()).ok().filter(|&count| count <= MAX_TRANSLATORS);
        let translators = translators.ok_or_else(|| PlatformError::State {
            part: DEVICES.into(),
            what: format!("it has {} interrupt translation services", state.its.len()),
        })?;
        Ok(Shape { vcpus, translators })
    }

    /// Puts back what was saved, after memory and before any vCPU runs: the vCPUs first, whose registers the interrupt
    /// controller knows them by. Each ITS reads its tables from guest memory, which takes the pending bits that it finds
    /// out of the pending tables: that writes guest memory.
    pub(crate) fn load(
        &self,
        saved: &PlatformSaved,
        cpus: impl FnOnce() -> Result<(), PlatformError>,
    ) -> Result<(), PlatformError> {
        cpus()?;
        self.load_devices(saved)
    }

    /// What a processor is, its registers say: one that this host cannot give them refuses the state, by name.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "other architectures ask the kernel")]
    pub(crate) fn lacks(&self, _processor: &Processor) -> Result<Option<String>, PlatformError> {
        Ok(None)
    }
}

/// As [`KvmPlatform::lacks`] has it.
#[expect(clippy::unnecessary_wraps, reason = "other architectures read it from the state")]
pub(crate) fn processor_of(_cpu: &Opaque) -> Result<Processor, PlatformError> {
    Ok(Processor::default())
}

/// Puts a vCPU to sleep until the first one's `CPU_ON`.
pub(crate) fn wait_for_start(vcpu: &mut Vcpu) -> Result<(), PlatformError> {
    vcpu.set_mp_state(KVM_MP_STATE_STOPPED).map_err(refused("switching a vCPU off"))
}

/// Puts a vCPU that was reset at the entry point: EL1, MMU off, interrupts masked.
pub(crate) fn enter(vcpu: &mut Vcpu, start: &Start) -> Result<(), PlatformError> {
    let registers = [(PC, start.entry), (x(0), start.argument), (x(1), vcpu.id().into())];
    for (register, value) in registers {
        vcpu.set_register(register, value).map_err(refused("setting a register"))?;
    }
    Ok(())
}
