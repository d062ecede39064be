//! The state of a VM beside its vCPUs.

use ringmark_abi::Errno;
use serde::{Deserialize, Serialize};

use super::{ItsState, Part, VgicState};
use crate::{StateError, Vm};

/// What KVM knows of a VM beside its memory and vCPUs: the interrupt controller.
///
/// Its tables are in guest memory, where [`Vm::save_pending_tables`] and [`Vm::save_its_tables`] put them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// The VGICv3, if there is one.
    pub vgic: Option<VgicState>,
    /// The ITSs, in the order in which they were created.
    pub its: Vec<ItsState>,
}

impl Vm {
    /// Saves the VM's state: registers only, no guest memory is written. All vCPUs must be out of their ioctls.
    ///
    /// # Errors
    /// [`StateError::Save`]: `EBUSY` while some vCPU is inside an ioctl or before the VGICv3 is initialised, `ENXIO` for an
    /// ITS without an address.
    pub fn state(&self) -> Result<VmState, StateError> {
        let vgic = self.vgic().map(|vgic| VgicState::save(self, &vgic)).transpose()?;
        let its = self.translators().into_iter().zip(0..).map(|(its, index)| ItsState::save(&its, index));
        Ok(VmState { vgic, its: its.collect::<Result<_, _>>()? })
    }

    /// Restores a saved state into a VM with the same devices, with its memory restored, the VGICv3 initialised, the states
    /// of its vCPUs set and none run.
    ///
    /// It **writes guest memory**: an ITS that reads its tables takes the pending bits it finds out of the pending tables.
    /// Those pages are logged in the bitmaps alone and count as dirty from here on.
    ///
    /// Saved again it is the same state, but for addresses of tables and queues that the guest had never set: the kernel
    /// adds memory attributes to whatever is written there.
    ///
    /// # Errors
    /// [`StateError::Restore`] at the first part that was saved and cannot be set; `ENODEV` says that a device was not
    /// created, `ENOENT` that a vCPU was not, `EINVAL` for [`Part::NrIrqs`] that the VGICv3 has another number of
    /// interrupts, and (ours) for a whole device that registers are missing or unknown.
    pub fn set_state(&self, state: &VmState) -> Result<(), StateError> {
        let missing = |part| StateError::Restore { part, errno: Errno::ENODEV };
        if let Some(saved) = &state.vgic {
            let vgic = self.vgic().ok_or(missing(Part::Vgic))?;
            saved.restore(self, &vgic)?;
        }
        // After all redistributors: what they know of the tables of LPIs is what pending bits are read by.
        let translators = self.translators();
        for ((saved, place), index) in state.its.iter().zip(0..).zip(0..) {
            let its = translators.get::<usize>(place).ok_or(missing(Part::Its(index)))?;
            saved.restore(its, index)?;
        }
        Ok(())
    }
}
