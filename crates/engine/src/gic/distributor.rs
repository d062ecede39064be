//! What the whole VM shares of the interrupt controller (`struct vgic_dist`).

use std::collections::BTreeMap;

use super::{frames::Frames, lpi::Lpis, redistributor::Redistributor};

/// `GICR_PROPBASER` as creating an ITS leaves it: inner shareable, write-back, no table.
pub(super) const INITIAL_PROPBASER: u64 = 1 << 10 | 3 << 7;

/// The VGIC's state apart from the ITSs.
#[derive(Debug, Default)]
pub(super) struct Distributor {
    /// The VM has a VGICv3 (`irqchip_in_kernel`).
    pub(super) created: bool,
    /// `KVM_DEV_ARM_VGIC_CTRL_INIT` was given (`vgic_initialized`).
    pub(super) initialized: bool,
    /// An ITS was created, so LPIs exist.
    pub(super) has_its: bool,
    /// Where its frames are.
    pub(super) frames: Frames,
    /// `GICR_PROPBASER`, one for all redistributors.
    pub(super) propbaser: u64,
    /// Redistributors by vCPU id, once one of their registers was written.
    pub(super) redistributors: BTreeMap<u32, Redistributor>,
    /// The LPIs that something translates to.
    pub(super) lpis: Lpis,
}
