//! The tables that the interrupt controller keeps in guest memory.

use super::{ctrl, group};
use crate::arm64::Part;
use crate::{StateError, Vm};

impl Vm {
    /// `KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES`: writes the pending LPIs of every vCPU to its pending table.
    ///
    /// All vCPUs must be out of their ioctls. It **writes guest memory**, logged in the bitmaps alone; only changed bytes
    /// are written. Without a VGIC there is nothing to do.
    ///
    /// The kernel never takes a bit back by itself: one whose interrupt the guest takes afterwards stays set until the next
    /// save, and for ever if its LPI was unmapped or moved meanwhile. A guest that maps an LPI (MAPTI) whose bit is set
    /// receives it unasked (`vgic_v3_lpi_sync_pending_status`). Where the guest goes on after a save, this can happen to it.
    ///
    /// # Errors
    /// [`StateError::Save`]: `EBUSY` while some vCPU is inside an ioctl, `ENXIO` before [`ctrl::INIT`], `EFAULT` for a table
    /// outside the memslots.
    pub fn save_pending_tables(&self) -> Result<(), StateError> {
        let Some(vgic) = self.vgic() else { return Ok(()) };
        vgic.set_attr(group::CTRL, ctrl::SAVE_PENDING_TABLES, 0)
            .map_err(|errno| StateError::Save { part: Part::PendingTables, errno })
    }

    /// `KVM_DEV_ARM_ITS_SAVE_TABLES` on every ITS: writes what it holds to its device, collection and translation tables.
    ///
    /// All vCPUs must be out of their ioctls. It **writes guest memory**, logged in the bitmaps alone. Without an ITS there
    /// is nothing to do.
    ///
    /// A guest that unmaps a collection which interrupts are still mapped to makes kernels up to 6.12 at least fault here
    /// (`vgic_its_save_ite`): do not save such guests there.
    ///
    /// # Errors
    /// [`StateError::Save`]: `EBUSY` while some vCPU is inside an ioctl, `EFAULT` or `EINVAL` for a table outside the
    /// memslots, `EACCES` for interrupts forwarded to hardware that cannot give them back.
    pub fn save_its_tables(&self) -> Result<(), StateError> {
        for (its, index) in self.translators().iter().zip(0..) {
            its.set_attr(group::CTRL, ctrl::ITS_SAVE_TABLES, 0)
                .map_err(|errno| StateError::Save { part: Part::ItsTables(index), errno })?;
        }
        Ok(())
    }
}
