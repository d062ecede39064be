//! `/dev/kvm` itself.

#![allow(unsafe_code, reason = "one ioctl that kvm-ioctls offers on VMs only")]

use std::ffi::{CString, c_ulong};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvm_bindings::{KVM_API_VERSION, kvm_enable_cap};
use kvm_ioctls::Kvm;
use ringmark_abi::{EnableCap, Errno};
use ringmark_dirty::PageSize;

use crate::page::host_page_size;
use crate::{Vm, errno, ioctl};

/// The path of the device on every Linux system.
const DEVICE: &str = "/dev/kvm";

/// The host's KVM.
#[derive(Clone, Debug)]
pub struct System {
    kvm: Arc<Kvm>,
    page_size: PageSize,
}

/// Why `/dev/kvm` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such device.
    #[error(
        "{} does not exist: this kernel offers no KVM. Load its module (kvm_intel or kvm_amd), switch virtualisation \
         on in the firmware, or, inside a virtual machine or container, have its host pass the device through",
        path.display()
    )]
    Absent {
        /// The device that was looked for.
        path: PathBuf,
    },
    /// The user may not open it.
    #[error(
        "no permission to open {}: it belongs to group {group}. Join that group (`sudo usermod -aG kvm $USER`, then \
         log in again), or grant access by a udev rule such as `KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"`",
        path.display()
    )]
    Denied {
        /// The device that was refused.
        path: PathBuf,
        /// The number of the group that owns it.
        group: u32,
    },
    /// It is there but cannot be opened, or is no KVM.
    #[error("{} cannot be opened as KVM: {errno}", path.display())]
    Failed {
        /// The device.
        path: PathBuf,
        /// What `open` or `KVM_GET_API_VERSION` gave.
        errno: Errno,
    },
    /// It speaks another version of the interface.
    #[error(
        "{} speaks version {version} of the KVM interface and this program version {KVM_API_VERSION}: the kernel is \
         too old to run on",
        path.display()
    )]
    ApiVersion {
        /// The device.
        path: PathBuf,
        /// What `KVM_GET_API_VERSION` gave.
        version: i32,
    },
    /// The host's pages are of no size that KVM tracks in.
    #[error("the host's page size is not a power of two from 512 bytes to 1 GiB, which KVM does not run on")]
    PageSize,
}

impl System {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`OpenError`]; its message says what to do.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_at(Path::new(DEVICE))
    }

    /// Opens the KVM device at `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(path: &Path) -> Result<Self, OpenError> {
        let failed = |errno| OpenError::Failed { path: path.to_owned(), errno };
        let page_size = host_page_size().ok_or(OpenError::PageSize)?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| failed(Errno::EINVAL))?;
        let kvm = Kvm::new_with_path(name).map_err(|e| match errno::of(e) {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => OpenError::Absent { path: path.to_owned() },
            Errno::EACCES | Errno::EPERM => {
                let group = std::fs::metadata(path).map_or(0, |m| m.gid());
                OpenError::Denied { path: path.to_owned(), group }
            }
            other => failed(other),
        })?;
        match kvm.get_api_version() {
            -1 => Err(failed(errno::last())),
            version if version.unsigned_abs() == KVM_API_VERSION => {
                Ok(Self { kvm: Arc::new(kvm), page_size })
            }
            version => Err(OpenError::ApiVersion { path: path.to_owned(), version }),
        }
    }

    /// The granule of dirty tracking: the host's page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// `KVM_CHECK_EXTENSION` on the device: 0 means absent.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn check_extension(&self, cap: u32) -> Result<u64, Errno> {
        u64::try_from(self.kvm.check_extension_raw(c_ulong::from(cap))).map_err(|_| errno::last())
    }

    /// `KVM_ENABLE_CAP` on the device, which has no such ioctl for any capability of dirty tracking.
    ///
    /// # Errors
    /// The kernel's `EINVAL`, always; capabilities are enabled on a [`Vm`].
    pub fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno> {
        let cap = kvm_enable_cap { cap: cap.cap, flags: cap.flags, args: cap.args, ..Default::default() };
        // SAFETY: the request reads one kvm_enable_cap, and no capability holds an address to write through.
        unsafe { ioctl::read(self.kvm.as_ref(), ioctl::KVM_ENABLE_CAP(), &cap) }.map(drop)
    }

    /// `KVM_CREATE_VM`, of the architecture's default type.
    ///
    /// # Errors
    /// `ENOMEM`, and whatever the processor's module gives where it cannot create one more.
    pub fn create_vm(&self) -> Result<Vm, Errno> {
        loop {
            match self.kvm.create_vm().map_err(errno::of) {
                // The kernel may be interrupted while it registers the process's memory.
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(fd) => return Ok(Vm::new(fd, Arc::clone(&self.kvm), self.page_size)),
            }
        }
    }

    /// The device as `kvm-ioctls` has it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }
}
