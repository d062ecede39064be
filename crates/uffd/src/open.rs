//! The descriptor, its features negotiated.

#![allow(unsafe_code, reason = "the system calls of userfaultfd")]

use std::ffi::c_ulong;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::{Features, sys};

/// The device that hands out descriptors to whoever may open it (Linux 6.1).
const DEVICE: &str = "/dev/userfaultfd";

/// Whose faults are to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Also those of the kernel on behalf of this process: a vCPU inside `KVM_RUN` faults there. Needs `CAP_SYS_PTRACE`,
    /// `vm.unprivileged_userfaultfd`, or access to `/dev/userfaultfd`.
    All,
    /// Those of user code only; a system call that meets a missing page fails (`handle_userfault` answers `SIGBUS`).
    UserOnly,
}

/// A page that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// First byte of the page in this process.
    pub address: u64,
}

/// Why there is no usable userfaultfd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The kernel has none.
    #[error("this kernel has no userfaultfd (CONFIG_USERFAULTFD)")]
    Absent,
    /// This process may not have one that stops the kernel's faults.
    #[error(
        "no permission for a userfaultfd: run as root or with CAP_SYS_PTRACE, grant access to {DEVICE}, or set \
         vm.unprivileged_userfaultfd=1"
    )]
    Denied,
    /// The kernel lacks something.
    #[error("this kernel's userfaultfd lacks {missing}")]
    Lacks {
        /// What.
        missing: Features,
    },
    /// Anything else.
    #[error("a userfaultfd could not be had: {0}")]
    Io(#[from] io::Error),
}

/// A userfaultfd: answers faults of the mappings that are registered with it.
///
/// It never blocks: [`next_fault`](Self::next_fault) returns at once, and [`AsFd`] is for `poll(2)`. Closing it ends every
/// registration and wakes whoever waits; what was still missing is zero from then on (`userfaultfd_release`), so whoever
/// owns it outlives the threads that may fault.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
    features: Features,
}

impl Userfaultfd {
    /// A userfaultfd with `wanted` switched on.
    ///
    /// # Errors
    /// Says what stands in the way, and what to do about it.
    pub fn open(faults: Faults, wanted: Features) -> Result<Self, OpenError> {
        // A descriptor is asked once (`userfaultfd_api`), so what there is is learnt from another.
        let offered = negotiate(&new(faults)?, Features::NONE)?;
        if !offered.contains(wanted) {
            return Err(OpenError::Lacks { missing: wanted.without(offered) });
        }
        let fd = new(faults)?;
        negotiate(&fd, wanted)?;
        Ok(Self { fd, features: offered })
    }

    /// Everything that the kernel offers, switched on or not.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.features
    }

    /// The next page that somebody waits for; `None` if there is none.
    ///
    /// Several threads may ask; each fault is handed out once. A fault whose thread was interrupted by a signal is
    /// withdrawn or handed out again.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn next_fault(&self) -> io::Result<Option<Fault>> {
        loop {
            let mut message = sys::Message::default();
            // SAFETY: the buffer is one message, which the kernel fills whole or not at all (`userfaultfd_read_iter`).
            let read = unsafe {
                libc::read(self.fd.as_raw_fd(), ptr::from_mut(&mut message).cast(), size_of::<sys::Message>())
            };
            if read < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            }
            // No other event is ever switched on by this crate.
            if message.event == sys::EVENT_PAGEFAULT {
                return Ok(Some(Fault { address: message.address }));
            }
        }
    }

    /// An ioctl of this descriptor.
    pub(crate) fn ioctl<T>(&self, request: c_ulong, argument: &mut T) -> io::Result<()> {
        ioctl(self.fd.as_fd(), request, argument)
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An ioctl whose argument is the structure that its number names.
pub(crate) fn ioctl<T>(fd: BorrowedFd<'_>, request: c_ulong, argument: &mut T) -> io::Result<()> {
    ioctl_value(fd, request, ptr::from_mut(argument).expose_provenance() as c_ulong).map(drop)
}

/// An ioctl with `argument` as its last word; returns what the kernel does.
pub(crate) fn ioctl_value(fd: BorrowedFd<'_>, request: c_ulong, argument: c_ulong) -> io::Result<i32> {
    // SAFETY: every caller passes an address of the structure that `request` names, or a plain number where it names none;
    // the kernel reads and writes within the size that the number carries.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Tells the kernel the version and the features; returns all that it offers.
fn negotiate(fd: &OwnedFd, features: Features) -> Result<Features, OpenError> {
    let mut api = sys::Api { api: sys::UFFD_API, features: features.bits(), ioctls: 0 };
    ioctl(fd.as_fd(), sys::UFFDIO_API, &mut api)?;
    Ok(Features::from_bits(api.features))
}

fn new(faults: Faults) -> Result<OwnedFd, OpenError> {
    new_by_syscall(faults).or_else(|denied| match (faults, denied) {
        (Faults::All, OpenError::Denied) => new_by_device(),
        (_, error) => Err(error),
    })
}

pub(crate) fn new_by_syscall(faults: Faults) -> Result<OwnedFd, OpenError> {
    let user_only = if faults == Faults::UserOnly { sys::UFFD_USER_MODE_ONLY } else { 0 };
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | user_only;
    // SAFETY: a system call of one integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let Ok(fd) = i32::try_from(fd) else { return Err(OpenError::Absent) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EPERM) => OpenError::Denied,
            Some(libc::ENOSYS) => OpenError::Absent,
            _ => error.into(),
        });
    }
    // SAFETY: the kernel has just made it, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn new_by_device() -> Result<OwnedFd, OpenError> {
    let device = File::options().read(true).write(true).open(DEVICE).map_err(|_| OpenError::Denied)?;
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK).unsigned_abs();
    let fd = ioctl_value(device.as_fd(), sys::USERFAULTFD_IOC_NEW, c_ulong::from(flags))?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
