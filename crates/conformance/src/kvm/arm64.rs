//! What is arm64's own: programs at EL1 that end at an address without memory, and the interrupt controller.

mod guest;

use ringmark_abi::Errno;
use ringmark_kvm::gic::{Device, Msi, device_type};
use ringmark_kvm::{Exit as KvmExit, Power, System, Vcpu, Vm};

use self::guest::DONE;
use crate::facts::Rules;
use crate::target::{Exit, Program, TestDevice};
use crate::verdict::{Must, Stop, Tried, Unsupported};

pub(super) use self::guest::Guest;

pub(super) const RULES: Rules = Rules::Arm64;

/// Whether the host makes a VGICv3 and an ITS, asked of a VM without vCPUs.
pub(super) fn has_gic(system: &System) -> Result<bool, Errno> {
    let vm = system.create_vm()?;
    let makes = |kind| vm.create_device(kind).is_ok();
    Ok(makes(device_type::ARM_VGIC_V3) && makes(device_type::ARM_VGIC_ITS))
}

/// The kind of MMU.
pub(super) fn mmu() -> String {
    "stage 2".into()
}

/// A vCPU's state beside its descriptor.
#[derive(Debug, Default)]
pub(super) struct Processor {
    prepared: bool,
    /// The last exit was an access that the next `KVM_RUN` completes, by moving the program counter.
    pending: bool,
}

impl Processor {
    pub(super) fn new(vcpu: &mut Vcpu) -> Result<Self, Errno> {
        vcpu.init(Power::On)?;
        Ok(Self::default())
    }

    /// Points `vcpu` to the start of `program`.
    pub(super) fn load(
        &mut self,
        _system: &System,
        vcpu: &mut Vcpu,
        guest: &Guest,
        program: &Program,
    ) -> Result<(), Stop> {
        if !self.prepared {
            Guest::prepare(vcpu).must("KVM_SET_ONE_REG of a system register")?;
            self.prepared = true;
        }
        if self.pending {
            vcpu.complete_pending().map(drop).must("KVM_RUN to complete an access")?;
            self.pending = false;
        }
        guest.start(vcpu, program)
    }

    /// `KVM_RUN`.
    pub(super) fn run(&mut self, vcpu: &mut Vcpu) -> Result<Exit, Errno> {
        self.pending = false;
        let exit = match vcpu.run()? {
            KvmExit::MmioWrite { address: DONE, .. } => Exit::Done,
            KvmExit::MmioWrite { address, .. } => Exit::MmioWrite(address),
            KvmExit::MmioRead { address, .. } => Exit::MmioRead(address),
            KvmExit::DirtyRingFull => Exit::DirtyRingFull,
            KvmExit::Interrupted => return Err(Errno::EINTR),
            other => Exit::Other(format!("{other:?}")),
        };
        self.pending = matches!(exit, Exit::Done | Exit::MmioWrite(_) | Exit::MmioRead(_));
        Ok(exit)
    }

    pub(super) fn write_wall_clock(_vcpu: &mut Vcpu, _gpa: u64) -> Tried<()> {
        Err(Unsupported("no wall-clock register (x86's)".into()))
    }
}

#[derive(Debug)]
struct KvmDevice(Device);

impl TestDevice for KvmDevice {
    fn set(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        self.0.set_attr(group, attr, value)
    }

    fn get(&self, group: u32, attr: u64) -> Result<u64, Errno> {
        let mut value = 0;
        self.0.get_attr(group, attr, &mut value).map(|()| value)
    }
}

pub(super) fn create_device(vm: &Vm, kind: u32) -> Tried<Box<dyn TestDevice>> {
    Ok(vm.create_device(kind).map(|device| Box::new(KvmDevice(device)) as Box<dyn TestDevice>))
}

pub(super) fn signal_msi(vm: &Vm, address: u64, device: u32, event: u32) -> Tried<u32> {
    Ok(vm.signal_msi(&Msi { address, data: event, devid: Some(device) }))
}
