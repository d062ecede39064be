//! What is x86's own: user-mode programs that end at a port.

mod guest;

use ringmark_abi::Errno;
use ringmark_kvm::{Exit as KvmExit, System, Vcpu, Vm};

use self::guest::{PORT_DONE, PORT_INPUT};
use super::facts;
use crate::facts::Rules;
use crate::target::{Exit, Program, TestDevice};
use crate::verdict::{Must, Stop, Tried, Unsupported};

pub(super) use self::guest::Guest;

pub(super) const RULES: Rules = Rules::X86;

/// `MSR_KVM_WALL_CLOCK_NEW`.
const WALL_CLOCK: u32 = 0x4b56_4d00;

/// A VGICv3 with ITS is arm64's.
pub(super) fn has_gic(_system: &System) -> Result<bool, Errno> {
    Ok(false)
}

/// The kind of MMU.
pub(super) fn mmu() -> String {
    let on = |path: &str| matches!(facts::first_line(path).as_str(), "Y" | "1");
    if std::fs::exists("/sys/module/kvm_pvm").unwrap_or(false) {
        "shadow paging, kvm_pvm".into()
    } else if on("/sys/module/kvm_intel/parameters/ept") {
        "EPT".into()
    } else if on("/sys/module/kvm_amd/parameters/npt") {
        "NPT".into()
    } else {
        "shadow paging".into()
    }
}

/// A vCPU's state beside its descriptor.
#[derive(Debug, Default)]
pub(super) struct Processor {
    prepared: bool,
    input: u8,
}

impl Processor {
    pub(super) fn new(_vcpu: &mut Vcpu) -> Result<Self, Errno> {
        Ok(Self::default())
    }

    /// Points `vcpu` to the start of `program`.
    pub(super) fn load(
        &mut self,
        system: &System,
        vcpu: &mut Vcpu,
        guest: &Guest,
        program: &Program,
    ) -> Result<(), Stop> {
        if !self.prepared {
            let cpuid = system.supported_cpuid().must("KVM_GET_SUPPORTED_CPUID")?;
            vcpu.set_cpuid(&cpuid).must("KVM_SET_CPUID2")?;
            Guest::prepare(vcpu).must("KVM_SET_SREGS")?;
            self.prepared = true;
        }
        if let Program::InputString { byte, .. } = program {
            self.input = *byte;
        }
        guest.start(vcpu, program).must("KVM_SET_REGS")
    }

    /// `KVM_RUN`.
    pub(super) fn run(&mut self, vcpu: &mut Vcpu) -> Result<Exit, Errno> {
        Ok(match vcpu.run()? {
            KvmExit::IoOut { port: PORT_DONE, .. } => Exit::Done,
            KvmExit::IoIn { port: PORT_INPUT, data, .. } => {
                data.fill(self.input);
                Exit::Input
            }
            KvmExit::DirtyRingFull => Exit::DirtyRingFull,
            KvmExit::MmioWrite { address, .. } => Exit::MmioWrite(address),
            KvmExit::MmioRead { address, .. } => Exit::MmioRead(address),
            KvmExit::Interrupted => return Err(Errno::EINTR),
            other => Exit::Other(format!("{other:?}")),
        })
    }

    pub(super) fn write_wall_clock(vcpu: &mut Vcpu, gpa: u64) -> Tried<()> {
        Ok(vcpu.set_msr(WALL_CLOCK, gpa))
    }
}

pub(super) fn create_device(_vm: &Vm, _kind: u32) -> Tried<Box<dyn TestDevice>> {
    Err(Unsupported("no VGICv3 with ITS (arm64's)".into()))
}

pub(super) fn signal_msi(_vm: &Vm, _address: u64, _device: u32, _event: u32) -> Tried<u32> {
    Err(Unsupported("no ITS (arm64's)".into()))
}
