//! The host's `/dev/kvm` as a target.

use std::sync::Arc;

use crate::run::OpenError;
use crate::target::Target;

#[cfg(target_arch = "aarch64")]
mod arm64;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
use arm64 as arch;
#[cfg(target_arch = "x86_64")]
use x86 as arch;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod facts;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod mapping;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod signals;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod target;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vcpu;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vm;

/// Opens `/dev/kvm`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) fn open() -> Result<Arc<dyn Target>, OpenError> {
    Ok(Arc::new(target::KvmTarget::open()?))
}

/// There is guest code for x86-64 and arm64 only.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn open() -> Result<Arc<dyn Target>, OpenError> {
    Err(OpenError::NoGuest(std::env::consts::ARCH))
}
