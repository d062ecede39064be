//! The processor registers that an image holds.

#[cfg(target_arch = "aarch64")]
#[path = "registers/arm64.rs"]
mod target;
#[cfg(target_arch = "x86_64")]
#[path = "registers/x86.rs"]
mod target;

use ringmark_image::Image;
use ringmark_kvm::VcpuState;

use crate::RestoreError;
use crate::codec;
use crate::platform::Hypervisor;
use crate::saved::{self, MachineSaved};

/// The general registers of an image's vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRegisters {
    /// What the vCPUs are, as the Rust compiler calls it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// For each vCPU its registers in the order of the kernel's `elf_gregset_t`. Empty for vCPUs of the software engine,
    /// which have none, and for those of an architecture that is not this host's.
    pub vcpus: Vec<Vec<u64>>,
}

impl SavedRegisters {
    /// The registers in `image`; `None` if it holds memory alone.
    ///
    /// # Errors
    /// [`RestoreError::Image`] and [`RestoreError::State`] for a state that cannot be read.
    pub fn of(image: &Image) -> Result<Option<Self>, RestoreError> {
        if !image.state_names().any(|name| name == saved::PART) {
            return Ok(None);
        }
        let saved = MachineSaved::decode(&image.state(saved::PART)?).map_err(RestoreError::State)?;
        Self::of_state(&saved).map(Some).map_err(RestoreError::State)
    }

    pub(crate) fn of_state(saved: &MachineSaved) -> Result<Self, String> {
        let known = saved.hypervisor == Hypervisor::Kvm && saved.architecture == std::env::consts::ARCH;
        let cpus = if known { &saved.cpus[..] } else { &[] };
        let vcpus = cpus.iter().map(|cpu| {
            let state: VcpuState = codec::decode(&cpu.0)?;
            Ok(target::general(&state))
        });
        Ok(Self { architecture: saved.architecture.clone(), vcpus: vcpus.collect::<Result<_, String>>()? })
    }
}
