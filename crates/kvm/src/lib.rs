//! The real `/dev/kvm` behind the interface of `ringmark-abi`, and what a monitor needs beside it.
//!
//! It stands on `kvm-ioctls` and `kvm-bindings` and adds what they lack: dirty rings mapped,
//! `KVM_RESET_DIRTY_RINGS`, `KVM_CLEAR_DIRTY_LOG`, a dirty log into a buffer of the caller's, the ring-full exit,
//! kicks that are never lost, and state as a whole.
//!
//! # From device to guest
//!
//! 1. [`System::open`] and [`System::create_vm`];
//! 2. the VM's devices, and the ring: [`enable_cap`](ringmark_abi::Vm::enable_cap) comes before the first vCPU, and for
//!    the bitmap behind the ring before the first memslot;
//! 3. memslots: [`set_user_memory_region`](ringmark_abi::Vm::set_user_memory_region), the one call that must promise
//!    something, namely memory that stays;
//! 4. [`Vm::create_vcpu`], whose [`ring_memory`](Vcpu::ring_memory) goes to whoever harvests (on arm64 `Vcpu::init`
//!    makes it a processor);
//! 5. [`Vcpu::run`] in a thread of its own, answering each [`Exit`].
//!
//! `examples/ring` is all of it in one short program.
//!
//! # Threads and signals
//!
//! A [`Vcpu`] is run by one thread at a time. A [`Kick`] takes it out of the guest from any other; its documentation
//! has the argument why no kick is lost. The signal is `SIGRTMIN`; its handler is installed with the first vCPU.
//!
//! A thread that calls [`reset_dirty_rings`](ringmark_abi::Vm::reset_dirty_rings) must take *no* signal at all:
//! kernels since 6.16 stop a reset at a pending signal and then leave pages writable that they counted as reset.
//! `tests/signals.rs` holds this on the blocked side and prints what the host's kernel does on the other.
//!
//! # Writes outside `KVM_RUN`
//!
//! Guest memory is written, and logged, by more than running vCPUs. Finishing a port or MMIO access
//! ([`Vcpu::complete_pending`]), reading state, setting state and setting single MSRs all may add ring entries. The
//! last harvest comes after the last call on a vCPU.
//!
//! # State
//!
//! Stop the vCPUs, [`complete_pending`](Vcpu::complete_pending) on each, then `Vcpu::state` and `Vm::state`. What a
//! host does not have is listed with its error number; what was saved and cannot be set is an error. On x86 a state is
//! restored to the VM first and then to its vCPUs; on arm64 the vCPUs come first, since the interrupt controller knows
//! them by their registers.
//!
//! # arm64
//!
//! There is one ring capability, `ACQ_REL`, and the bitmap behind it is no luxury: the interrupt controller writes its
//! tables to guest memory with no vCPU running (`Vm::save_pending_tables`, `Vm::save_its_tables`, and `Vm::set_state`,
//! which has them read back), and a slot without a bitmap may be mapped by huge pages of which one page is logged. Both
//! saves come after the vCPUs stopped and before the last [`get_dirty_log`](ringmark_abi::Vm::get_dirty_log).
//!
//! Running, tracking and kicks compile for every architecture of KVM; registers, devices and state are there for x86-64
//! and arm64.

#[cfg(target_arch = "aarch64")]
mod arm64;
mod errno;
mod exit;
mod ioctl;
mod kick;
mod mapping;
mod page;
mod ring;
mod run_page;
mod signal;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod state;
mod system;
mod vcpu;
mod vm;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use arm64::{Part, Power, Register, VcpuState, VmState, gic, register};
pub use exit::Exit;
pub use kick::Kick;
pub use kvm_bindings as bindings;
pub use ring::RingMapping;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub use state::{Absent, Plain, Raw, StateError};
pub use system::{OpenError, System};
pub use vcpu::{CreateVcpuError, RawMapping, Vcpu};
pub use vm::Vm;
#[cfg(target_arch = "x86_64")]
pub use x86::{Msr, Part, Sregs, VcpuState, VmState, XsaveArea};
