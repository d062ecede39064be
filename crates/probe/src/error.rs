//! Why a probe came to no answer.

use std::io;
use std::time::Duration;

use ringmark_abi::Errno;
use ringmark_kvm::CreateVcpuError;
use ringmark_track::NegotiateError;

/// Why a small guest could not be made or did not do what it was told. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// A call to KVM failed.
    #[error("{call} failed for a small guest: {errno}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A vCPU could not be made.
    #[error(transparent)]
    Vcpu(#[from] CreateVcpuError),
    /// Memory could not be had.
    #[error("no memory for a small guest: {0}")]
    Memory(#[from] io::Error),
    /// The host cannot track the guest as the probe needs it.
    #[error(transparent)]
    Negotiate(#[from] NegotiateError),
    /// The host has no dirty rings to be probed.
    #[error("this host has no dirty rings")]
    NoRing,
    /// The guest did something that its program does not do.
    #[error("a small guest left its program: {0}")]
    Left(String),
    /// The guest did not come to an end.
    #[error("a small guest did not finish within {0:?}")]
    Timeout(Duration),
    /// A ring could not be read.
    #[error("a dirty ring cannot be read: {0}")]
    Ring(#[from] ringmark_dirty::RingError),
}

/// Names the call that failed.
pub(crate) trait During<T> {
    fn during(self, call: &'static str) -> Result<T, ProbeError>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, call: &'static str) -> Result<T, ProbeError> {
        self.map_err(|errno| ProbeError::Kvm { call, errno })
    }
}
