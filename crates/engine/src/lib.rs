//! The kernel's side of dirty tracking in software: memslots, vCPUs, dirty rings, backup bitmaps, and the errno of every
//! refusal.
//!
//! A [`System`] plays a host of some [`Profile`] (x86 or arm64 rules, page size, page-modification log, the quirks of real
//! kernels). It makes [`Vm`]s, which are [`ringmark_abi::Vm`]s: whoever tracks memory through that trait cannot tell the
//! engine from `/dev/kvm`. A [`Vcpu`] is run by a thread of the caller's, which decides what guest code there is: it
//! [enters](Vcpu::enter) the guest and makes its [stores](Running::store) and [loads](Running::load), and gets the
//! [`Exit`]s that a kernel would give. Device models write through [`Vm::device_write`].
//!
//! ```text
//!             store                 mark_page_dirty                        user space
//!   Vcpu ──▶ page state ──fault──▶ ┌ a vCPU loaded? ──▶ its ring ────────▶ harvest, then
//!            (writable?)           │                                       reset_dirty_rings ─┐
//!   device ── device_write ──────▶ └ a bitmap? ──────▶ backup bitmap ───▶ get_dirty_log ─────┤
//!                 ▲                  neither: dropped                                         │
//!                 └───────────── page write-protected again, TLBs flushed ◀───────────────────┘
//! ```
//!
//! Re-protection is real. A page whose entry was not reset, or whose bit was not collected, does not log again; a page
//! that was, does, and from the return of the call on no store to it escapes, whichever threads run vCPUs meanwhile.
//! `vcpu/section.rs` argues why, `vcpu/store.rs` why a page is made writable before its entry is pushed. The translation
//! cache of a vCPU is as stale as a real one between a reset and its flush, so the races of real kernels are here too.
//!
//! Beyond a kernel:
//!
//! - [`Vm::set_strict`] records every breach of the tracking protocol with the page that it loses ([`Violation`]), and
//!   keeps the truth: [`Vm::unreported`] names the pages that changed and that nobody will ever hear of.
//! - [`Vm::faults`] plays faults of real kernels on request: an interrupted reset, an overflowing ring.
//! - [`Vm::stats`] counts what a kernel says once in its log.
//! - [`gic`] is the VGICv3 and ITS of arm64, whose table saves are what backup bitmaps are for.
//!
//! ```
//! # #![allow(unsafe_code)]
//! use ringmark_abi::{EnableCap, MemoryRegion, Vm as _, cap, mem};
//! use ringmark_dirty::{Harvester, SlotId};
//! use ringmark_engine::{Profile, System};
//!
//! let vm = System::new(Profile::x86()).create_vm();
//! vm.enable_cap(&EnableCap::new(cap::DIRTY_LOG_RING_ACQ_REL, 65536))?;
//! # let layout = std::alloc::Layout::from_size_align(16 * 4096, 4096).unwrap();
//! # let memory = unsafe { std::alloc::alloc_zeroed(layout) }.expose_provenance();
//! let region = MemoryRegion {
//!     slot: SlotId::new(0, 0),
//!     flags: mem::LOG_DIRTY_PAGES,
//!     guest_phys_addr: 0,
//!     memory_size: 16 * 4096,
//!     userspace_addr: memory as u64, // sixteen pages of ours
//! };
//! // SAFETY: the memory stays mapped for as long as the VM lives.
//! unsafe { vm.set_user_memory_region(&region)? };
//!
//! let mut vcpu = vm.create_vcpu(0)?;
//! let mut ring = Harvester::new(vcpu.ring_memory().expect("rings are on")).expect("a power of two");
//! let mut guest = vcpu.enter().expect("nothing to exit for");
//! guest.store(3 * 4096, b"hello").expect("room in the ring");
//! guest.store(3 * 4096, b"again").expect("writable by now");
//! drop(guest);
//!
//! assert_eq!(ring.harvest(&vm.slot_table()).count(), 1);
//! assert_eq!(vm.reset_dirty_rings()?, 1);
//! # Ok::<(), ringmark_abi::Errno>(())
//! ```

pub mod gic;

mod faults;
mod memory;
mod memslots;
mod profile;
mod stats;
mod strict;
mod sync;
mod system;
mod vcpu;
mod vm;

pub use faults::Faults;
pub use profile::{Arch, Profile};
pub use stats::Stats;
pub use strict::{Rule, Violation};
pub use system::System;
pub use vcpu::{Exit, Kick, RingMapping, Running, Vcpu};
pub use vm::{Marked, Vm, Writer};
