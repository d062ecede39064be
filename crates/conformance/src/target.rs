//! What a case can ask of a kernel, real or in software.
//!
//! The interface is one floor below `ringmark-abi`: it takes wrong arguments too, because refusals are half of what the
//! suite is about. Calls that every target offers answer as the kernel does, with a value or an error number; the
//! others are [`Tried`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringmark_abi::{EnableCap, Errno, MemoryRegion};
use ringmark_dirty::{RingMemory, SlotId};

use crate::Facts;
use crate::verdict::{Stop, Tried};

/// A kernel under test.
pub trait Target: Send + Sync + fmt::Debug {
    /// What it says of itself.
    fn facts(&self) -> &Facts;

    /// `KVM_CHECK_EXTENSION` on `/dev/kvm`.
    ///
    /// # Errors
    /// The kernel's.
    fn check_extension(&self, cap: u32) -> Result<u64, Errno>;

    /// `KVM_ENABLE_CAP` on `/dev/kvm`, where no capability of dirty tracking can be enabled.
    ///
    /// # Errors
    /// The kernel's.
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno>;

    /// A new VM of a kernel as `wish` describes.
    ///
    /// # Errors
    /// [`Stop::Unsupported`] if this target is no such kernel, [`Stop::Broken`] if it makes no VM.
    fn create_vm(&self, wish: Wish) -> Result<Box<dyn TestVm>, Stop>;
}

/// Properties of a kernel that a case insists on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Whether a pending signal stops `KVM_RESET_DIRTY_RINGS`; `None`: as the target does it.
    pub reset_stops_on_signal: Option<bool>,
    /// Guest memory is backed by blocks of this many pages; `None`: by single pages.
    pub huge_pages: Option<u64>,
}

/// Where `KVM_GET_DIRTY_LOG` writes.
#[derive(Debug)]
pub enum Dest<'a> {
    /// A buffer.
    Words(&'a mut [u64]),
    /// An address that cannot be written.
    Bad,
}

/// What `KVM_CLEAR_DIRTY_LOG` reads.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A bitmap.
    Words(&'a [u64]),
    /// An address that cannot be read.
    Bad,
}

/// A VM under test.
pub trait TestVm: Send + Sync + fmt::Debug {
    /// `KVM_CHECK_EXTENSION` on the VM.
    ///
    /// # Errors
    /// The kernel's.
    fn check_extension(&self, cap: u32) -> Result<u64, Errno>;

    /// `KVM_ENABLE_CAP`.
    ///
    /// # Errors
    /// The kernel's.
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno>;

    /// `KVM_SET_USER_MEMORY_REGION`, right or wrong.
    ///
    /// # Safety
    /// As [`ringmark_abi::Vm::set_user_memory_region`], if the call succeeds.
    ///
    /// # Errors
    /// The kernel's.
    #[expect(unsafe_code, reason = "the slot's memory is the caller's promise, as it is the kernel's")]
    unsafe fn set_region(&self, region: &MemoryRegion) -> Result<(), Errno>;

    /// `KVM_GET_DIRTY_LOG`.
    ///
    /// # Errors
    /// The kernel's.
    fn get_dirty_log(&self, slot: SlotId, dest: Dest<'_>) -> Result<(), Errno>;

    /// `KVM_CLEAR_DIRTY_LOG`.
    ///
    /// # Errors
    /// The kernel's.
    fn clear_dirty_log(&self, slot: SlotId, first: u64, num: u32, source: Source<'_>) -> Result<(), Errno>;

    /// `KVM_RESET_DIRTY_RINGS` with an argument, which the kernel ignores.
    ///
    /// # Errors
    /// The kernel's.
    fn reset(&self, arg: u64) -> Result<u32, Errno>;

    /// `KVM_RESET_DIRTY_RINGS` while a signal arrives at the calling thread `every` so often.
    fn reset_amid_signals(&self, every: Duration) -> Tried<u32>;

    /// `KVM_CREATE_VCPU`.
    ///
    /// # Errors
    /// The kernel's.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn TestVcpu>, Errno>;

    /// `KVM_CHECK_EXTENSION`, then `KVM_RESET_DIRTY_RINGS`, from a child process that has inherited the descriptor; the
    /// first error.
    fn in_forked_child(&self) -> Tried<()>;

    /// `KVM_CREATE_DEVICE`.
    fn create_device(&self, kind: u32) -> Tried<Box<dyn TestDevice>>;

    /// `KVM_SIGNAL_MSI` with a device id: raises the interrupt that `device` and `event` map to.
    fn signal_msi(&self, address: u64, device: u32, event: u32) -> Tried<u32>;

    /// The engine behind it, for cases that need what no real kernel lets a test do.
    fn engine(&self) -> Option<&ringmark_engine::Vm> {
        None
    }
}

/// A vCPU under test. It has one program at a time.
pub trait TestVcpu: Send + fmt::Debug {
    /// `KVM_ENABLE_CAP` on the vCPU, where no capability of dirty tracking can be enabled.
    ///
    /// # Errors
    /// The kernel's.
    fn enable_cap(&self, cap: &EnableCap) -> Result<(), Errno>;

    /// Its ring, if the VM has rings.
    fn ring(&self) -> Option<Arc<dyn RingMemory>>;

    /// Maps pages of the vCPU's file the way `request` says.
    fn map(&self, request: &MapRequest) -> Tried<Box<dyn Mapping>>;

    /// Gives the guest something to do from its first instruction on.
    ///
    /// # Errors
    /// [`Stop::Unsupported`] if its guest cannot.
    fn load(&mut self, program: &Program) -> Result<(), Stop>;

    /// `KVM_RUN`.
    ///
    /// # Errors
    /// The kernel's; `EINTR` for an immediate exit.
    fn run(&mut self) -> Result<Exit, Errno>;

    /// `kvm_run.immediate_exit`.
    fn set_immediate_exit(&mut self, on: bool);

    /// `KVM_SET_MSRS` of the wall-clock register, which makes the kernel write guest memory at once.
    fn write_wall_clock(&mut self, gpa: u64) -> Tried<()>;

    /// Something that makes a running or the next `run` return soon, from any thread.
    fn kicker(&self) -> Kicker;
}

/// Makes a vCPU leave the guest.
pub type Kicker = Arc<dyn Fn() + Send + Sync>;

/// What the guest does; it ends with [`Exit::Done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Stores `value` (eight bytes) at each address, in order.
    Store {
        /// Guest-physical addresses.
        gpas: Vec<u64>,
        /// What to store.
        value: u64,
    },
    /// Loads eight bytes from each address, in order.
    Load {
        /// Guest-physical addresses.
        gpas: Vec<u64>,
    },
    /// Reads one byte from a port straight into memory (x86 `insb`).
    InputString {
        /// Guest-physical address of the byte.
        gpa: u64,
        /// What the port gives.
        byte: u8,
    },
    /// Touches nothing and never ends.
    Spin,
}

/// Why `KVM_RUN` returned 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The program has ended.
    Done,
    /// `KVM_EXIT_DIRTY_RING_FULL`.
    DirtyRingFull,
    /// A store that no memslot takes.
    MmioWrite(u64),
    /// A load that no memslot serves.
    MmioRead(u64),
    /// The program reads from its port; the byte is given, and reaches memory on the next run.
    Input,
    /// Any other exit.
    Other(String),
}

/// An `mmap` of a vCPU's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// The first page, counted from the start of the ring.
    pub first: u64,
    /// Pages to map.
    pub pages: u64,
    /// `PROT_WRITE` beside `PROT_READ`.
    pub write: bool,
    /// `PROT_EXEC` beside them.
    pub exec: bool,
    /// `MAP_SHARED`, else `MAP_PRIVATE`.
    pub shared: bool,
}

/// A mapping of a vCPU's file.
pub trait Mapping: fmt::Debug {
    /// What reading the first byte of page `page` of the mapping does.
    fn probe(&self, page: u64) -> Probe;
}

/// What an access to a mapping does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The byte was read.
    Readable,
    /// `SIGBUS`.
    BusError,
    /// Another signal.
    Signal(i32),
}

/// A device in the kernel, reached through its attributes.
pub trait TestDevice: Send + Sync + fmt::Debug {
    /// `KVM_SET_DEVICE_ATTR`; 32-bit attributes take the lower half of `value`.
    ///
    /// # Errors
    /// The kernel's.
    fn set(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno>;

    /// `KVM_GET_DEVICE_ATTR`.
    ///
    /// # Errors
    /// The kernel's.
    fn get(&self, group: u32, attr: u64) -> Result<u64, Errno>;
}
