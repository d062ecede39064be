//! The interrupt controller of arm64, as far as it writes guest memory: a VGICv3 with its LPIs, and interrupt translation
//! services (ITS).
//!
//! Of all devices in the kernel these two are why a ring needs a backup bitmap: an ITS keeps its tables to itself and
//! writes them to guest memory only when told to ([`ctrl::ITS_SAVE_TABLES`]), pending LPIs likewise
//! ([`ctrl::SAVE_PENDING_TABLES`]), and restoring tables consumes pending bits, which writes too. All of that happens in a
//! device ioctl, where no vCPU runs whose ring could take the page. The same code also runs when a *guest* stores to
//! `GITS_CWRITER`; then its writes go to that vCPU's ring.
//!
//! A device is made by [`Vm::create_device`](crate::Vm::create_device) and driven by attributes as
//! `KVM_SET_DEVICE_ATTR` drives it. No guest code is needed to program one: the queue is guest memory, and every register
//! is an attribute.
//!
//! What does not concern guest memory is left out: the distributor and its SPIs, SGIs and PPIs, the CPU interface
//! except for taking an LPI, forwarding to hardware. Their register offsets answer as unknown ones do.

mod bits;
mod device;
mod distributor;
mod frames;
pub(crate) mod host;
mod its;
mod its_attrs;
mod lpi;
mod mmio;
mod msi;
mod pending;
mod redistributor;
mod rules;
mod vgic_attrs;
mod vm;

use std::sync::{Mutex, MutexGuard};

pub use device::Device;
pub use msi::Msi;
pub use ringmark_abi::gic::{addr, ctrl, device_type, gicr, gits, group};
pub use rules::ItsRules;

use crate::sync::lock;
use distributor::Distributor;
use its::Its;

/// A VM's interrupt controller, created or not.
///
/// One lock is over all of it. It is taken after the vCPUs' ioctl locks (a device ioctl holds all of them, a guest's
/// store its own) and before any lock of guest memory.
#[derive(Debug, Default)]
pub(crate) struct Gic(Mutex<State>);

/// What the lock of [`Gic`] is over.
#[derive(Debug, Default)]
struct State {
    distributor: Distributor,
    /// The ITSs in the order in which they were created.
    its: Vec<Its>,
    rules: ItsRules,
}

impl Gic {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}
