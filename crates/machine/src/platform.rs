//! The two hypervisors under a machine.

mod kvm;
mod processor;
mod soft;

use std::io;
use std::sync::Arc;

use ringmark_abi::{Errno, MemoryRegion, Vm};
use ringmark_kvm::OpenError;
use ringmark_track::{KernelWrites, Mapping, Needs};

use ringmark_dirty::PageSize;

use crate::cpu::Opaque;
use crate::layout::AddressMap;
use crate::machine::CreateError;
use crate::ram::Ram;

pub(crate) use kvm::{KvmCpu, KvmPlatform, Start, enter, load_guest, load_kernel, wait_for_start};
pub(crate) use processor::Processor;
pub(crate) use soft::{SoftCpu, SoftPlatform};

/// Which hypervisor a machine asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HypervisorWish {
    /// KVM if this process may use one, else the engine.
    #[default]
    Auto,
    /// `/dev/kvm`, or an error.
    Kvm,
    /// The software engine.
    Engine,
}

/// Which hypervisor a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hypervisor {
    /// `/dev/kvm`.
    Kvm,
    /// The software engine.
    Engine,
}

impl Hypervisor {
    /// `kvm` or `engine`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Engine => "engine",
        }
    }
}

/// What of a machine its hypervisor has to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// vCPUs.
    pub(crate) vcpus: u32,
    /// Interrupt translation services; a PC has none, whatever is asked for.
    pub(crate) translators: u32,
}

/// A hypervisor could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// `/dev/kvm` cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An ioctl or its like was refused.
    #[error("{doing} failed: {errno}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The answer.
        errno: Errno,
    },
    /// An event descriptor could not be had.
    #[error("an event descriptor could not be had: {0}; raise the limit on open files")]
    Events(#[source] io::Error),
    /// A saved state is not what this hypervisor saves.
    #[error("the saved state of {part} is damaged or of another hypervisor: {what}")]
    State {
        /// The part.
        part: String,
        /// What is wrong with it.
        what: String,
    },
    /// A guest program cannot be placed in memory.
    #[error("the built-in guest does not fit: {0}")]
    Guest(#[from] ringmark_guest::ConfigError),
    /// The built-in guest cannot be given its interrupt controller.
    #[error("the built-in guest's interrupt tables do not fit: {0}")]
    Interrupts(#[from] ringmark_guest::InterruptsConfigError),
    /// A part of another hypervisor's machine was asked for.
    #[error("this machine is one of the other hypervisor's")]
    OtherHypervisor,
}

impl PlatformError {
    fn refused(doing: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let doing = doing.into();
        move |errno| Self::Refused { doing, errno }
    }
}

/// Everything a hypervisor holds beside memory, at a cut.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct PlatformSaved {
    /// Interrupt controllers, timers, clocks: opaque but to the hypervisor that saved them.
    pub devices: Opaque,
    /// Names of parts that this host could not give.
    pub absent: Vec<String>,
}

/// The hypervisor under one machine.
#[derive(Debug)]
pub(crate) enum Platform {
    Kvm(KvmPlatform),
    Soft(SoftPlatform),
}

impl Platform {
    /// The hypervisor that `wish` means on this host, and why it is that one. `kernel`: the engine cannot run it.
    pub(crate) fn choose(
        wish: HypervisorWish,
        kernel: bool,
        page_size: PageSize,
    ) -> Result<(Self, String), CreateError> {
        let soft = || Self::Soft(SoftPlatform::new(page_size));
        match wish {
            HypervisorWish::Engine if kernel => Err(CreateError::KernelOnEngine),
            HypervisorWish::Engine => Ok((soft(), "asked for".into())),
            HypervisorWish::Kvm => Ok((Self::Kvm(KvmPlatform::new()?), "asked for".into())),
            HypervisorWish::Auto => match KvmPlatform::new() {
                Ok(kvm) => Ok((Self::Kvm(kvm), "this host has a usable /dev/kvm".into())),
                Err(error) if kernel => Err(error.into()),
                Err(error) => Ok((soft(), error.to_string())),
            },
        }
    }

    pub(crate) fn hypervisor(&self) -> Hypervisor {
        match self {
            Self::Kvm(_) => Hypervisor::Kvm,
            Self::Soft(_) => Hypervisor::Engine,
        }
    }

    /// What tracking has to cope with here.
    pub(crate) fn needs(&self) -> Needs {
        match self {
            Self::Kvm(_) => Needs { kernel_writes: kvm::KERNEL_WRITES, mapping: Mapping::HugePages },
            // Its pages are logged one by one, however this process maps them.
            Self::Soft(_) => {
                Needs { kernel_writes: KernelWrites::InterruptTables, mapping: Mapping::SmallPages }
            }
        }
    }

    /// Where its machines have their memory.
    pub(crate) fn address_map(&self) -> AddressMap {
        address_map(self.hypervisor())
    }

    pub(crate) fn vm(&self) -> Arc<dyn Vm> {
        match self {
            Self::Kvm(kvm) => Arc::new(kvm.vm().clone()),
            Self::Soft(soft) => Arc::new(soft.vm().clone()),
        }
    }

    /// The kernel's VM.
    pub(crate) fn kvm_mut(&mut self) -> Result<&mut KvmPlatform, PlatformError> {
        match self {
            Self::Kvm(kvm) => Ok(kvm),
            Self::Soft(_) => Err(PlatformError::OtherHypervisor),
        }
    }

    /// The engine's VM.
    pub(crate) fn soft(&mut self) -> Result<&mut SoftPlatform, PlatformError> {
        match self {
            Self::Soft(soft) => Ok(soft),
            Self::Kvm(_) => Err(PlatformError::OtherHypervisor),
        }
    }

    /// What the hypervisor holds beside memory and vCPUs; saving it may write guest memory.
    pub(crate) fn save(&self) -> Result<PlatformSaved, PlatformError> {
        match self {
            Self::Kvm(kvm) => kvm.save(),
            Self::Soft(soft) => soft.save(),
        }
    }

    /// Puts back what was saved, with memory in place and before any vCPU runs; `cpus` puts back the vCPUs' state, before or
    /// after, as the hypervisor has it.
    pub(crate) fn load(
        &self,
        saved: &PlatformSaved,
        cpus: impl FnOnce() -> Result<(), PlatformError>,
    ) -> Result<(), PlatformError> {
        match self {
            Self::Kvm(kvm) => kvm.load(saved, cpus),
            Self::Soft(soft) => cpus().and_then(|()| soft.load(saved)),
        }
    }

    /// How many interrupt translation services there are, where there is an interrupt controller that can have some.
    pub(crate) fn translators(&self) -> Option<u32> {
        match self {
            Self::Kvm(kvm) => kvm.translators(),
            Self::Soft(soft) => soft.translators(),
        }
    }

    /// What its vCPUs offer to the guest.
    pub(crate) fn processor(&self) -> Processor {
        match self {
            Self::Kvm(kvm) => kvm.processor(),
            Self::Soft(_) => Processor::default(),
        }
    }

    /// The first thing that `processor` has and that vCPUs of this host cannot have.
    pub(crate) fn lacks(&self, processor: &Processor) -> Result<Option<String>, PlatformError> {
        match self {
            Self::Kvm(kvm) => kvm.lacks(processor),
            Self::Soft(_) => Ok(None),
        }
    }
}

/// The shape of a machine of `vcpus` whose state was saved; `None` where its interrupt controller was not made.
pub(crate) fn shape_of(
    hypervisor: Hypervisor,
    saved: &PlatformSaved,
    vcpus: u32,
) -> Result<Option<Shape>, PlatformError> {
    match hypervisor {
        Hypervisor::Kvm => kvm::KvmPlatform::shape_of(saved, vcpus).map(Some),
        Hypervisor::Engine => SoftPlatform::shape_of(saved),
    }
}

/// What the vCPUs of a machine offered, by the saved state of the first.
pub(crate) fn processor_of(hypervisor: Hypervisor, cpu: &Opaque) -> Result<Processor, PlatformError> {
    match hypervisor {
        Hypervisor::Kvm => kvm::processor_of(cpu),
        Hypervisor::Engine => Ok(Processor::default()),
    }
}

/// Where machines of `hypervisor` have their memory. On the engine that is the same on every host, and so are its images.
pub(crate) const fn address_map(hypervisor: Hypervisor) -> AddressMap {
    match hypervisor {
        Hypervisor::Kvm => kvm::MAP,
        Hypervisor::Engine => AddressMap::Pc,
    }
}

/// Where an interrupt controller has its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControllerFrames {
    pub(crate) distributor: u64,
    pub(crate) redistributors: u64,
    /// Of the first translation service; each further one lies 128 KiB behind the one before it.
    pub(crate) translators: u64,
}

/// The frames of an interrupt controller that built-in guests program; a PC's is none of these.
pub(crate) fn controller_frames(hypervisor: Hypervisor) -> Option<ControllerFrames> {
    match hypervisor {
        Hypervisor::Kvm => kvm::FRAMES,
        Hypervisor::Engine => Some(soft::FRAMES),
    }
}

/// Puts guest memory behind its memslots, with `flags`.
pub(crate) fn attach_memory(vm: &Arc<dyn Vm>, ram: &Ram, flags: u32) -> Result<(), PlatformError> {
    for ((slot, start, size), (_, host)) in ram.layout().ranges().zip(ram.host_addresses()) {
        let region =
            MemoryRegion { slot, flags, guest_phys_addr: start, memory_size: size, userspace_addr: host };
        attach(vm.as_ref(), &region)?;
    }
    Ok(())
}

#[allow(unsafe_code, reason = "the promise that guest memory outlives its memslot is made here")]
fn attach(vm: &dyn Vm, region: &MemoryRegion) -> Result<(), PlatformError> {
    // SAFETY: the region is one mapping of `Ram`, which is dropped after VM and vCPUs (the order of the fields of `Frame`
    // and `Machine`), and which is never unmapped or replaced before.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(PlatformError::refused(format!("adding memslot {}", region.slot)))
}
