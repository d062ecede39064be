//! The real `/dev/kvm` behind the interface of `ringmark-abi`, and what a monitor needs beside it.
//!
//! It stands on `kvm-ioctls` and `kvm-bindings` and adds what they lack: dirty rings mapped,
//! `KVM_RESET_DIRTY_RINGS`, `KVM_CLEAR_DIRTY_LOG`, a dirty log into a buffer of the caller's, the ring-full exit,
//! kicks that are never lost, and state as a whole.
//!
//! # From device to guest
//!
//! 1. [`System::open`] and [`System::create_vm`];
//! 2. the VM's devices, and the ring: [`enable_cap`](ringmark_abi::Vm::enable_cap) comes before the first vCPU;
//! 3. memslots: [`set_user_memory_region`](ringmark_abi::Vm::set_user_memory_region), the one call that must promise
//!    something, namely memory that stays;
//! 4. [`Vm::create_vcpu`], whose [`ring_memory`](Vcpu::ring_memory) goes to whoever harvests;
//! 5. [`Vcpu::run`] in a thread of its own, answering each [`Exit`].
//!
//! `examples/ring.rs` is all of it in one short program.
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
//! host does not have is `None` and listed with its error number; what was saved and cannot be set is an error. A
//! state is restored to the VM first and then to its vCPUs.
//!
//! Registers, platform devices and state are x86-64's so far; all else compiles for every architecture of KVM.

mod errno;
mod exit;
mod ioctl;
mod kick;
mod mapping;
mod page;
mod ring;
mod run_page;
mod signal;
mod system;
mod vcpu;
mod vm;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use exit::Exit;
pub use kick::Kick;
pub use kvm_bindings as bindings;
pub use ring::RingMapping;
pub use system::{OpenError, System};
pub use vcpu::{CreateVcpuError, RawMapping, Vcpu};
pub use vm::Vm;
#[cfg(target_arch = "x86_64")]
pub use x86::{Absent, Msr, Part, Plain, Raw, Sregs, StateError, VcpuState, VmState, XsaveArea};
