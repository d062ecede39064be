//! The interrupt controller: a VGICv3, and interrupt translation services (ITS).
//!
//! A device is made by [`Vm::create_device`](crate::Vm::create_device) and driven by attributes. The order that works: the
//! VGIC, the vCPUs with their [`init`](crate::Vcpu::init), its addresses, [`ctrl::INIT`]; then the ITSs and their
//! addresses.
//!
//! Saving its tables writes guest memory with no vCPU running, which only a bitmap logs: [`Vm::save_pending_tables`] and
//! [`Vm::save_its_tables`] come after the vCPUs stopped and before the last collection of the bitmaps.
//!
//! [`Vm::save_pending_tables`]: crate::Vm::save_pending_tables
//! [`Vm::save_its_tables`]: crate::Vm::save_its_tables

mod device;
mod msi;
mod parts;
mod tables;

pub use super::state::{CpuState, ItsState, VgicState};
pub use device::Device;
pub use msi::Msi;
pub use ringmark_abi::gic::{addr, ctrl, device_type, gicd, gicr, gits, group};

pub(crate) use parts::GicParts;
