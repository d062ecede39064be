//! The state of a VM beside its vCPUs.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pit_state2,
};
use ringmark_abi::Errno;
use serde::{Deserialize, Serialize};

use super::Part;
use crate::state::optional;
use crate::{Absent, Raw, StateError, Vm, errno};

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// What KVM knows of a VM beside its memory and vCPUs.
///
/// A part is missing or `None` where the host or the machine does not have it, and then [`absent`](Self::absent) says
/// so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// The two PICs and the I/O APIC.
    pub irqchips: Vec<Raw<kvm_irqchip>>,
    /// The interval timer.
    pub pit2: Option<Raw<kvm_pit_state2>>,
    /// The paravirtual clock.
    pub clock: Option<Raw<kvm_clock_data>>,
    /// What the host could not give.
    pub absent: Vec<Absent>,
}

impl Vm {
    /// Saves the VM's state. All vCPUs must be out of the guest.
    ///
    /// # Errors
    /// [`StateError::Save`] where the kernel says that something is wrong rather than that there is no such thing.
    pub fn state(&self) -> Result<VmState, StateError> {
        let mut absent = Vec::new();
        let clock = optional(Part::Clock, self.fd().get_clock().map_err(errno::of), &mut absent)?;
        let mut irqchips = Vec::with_capacity(CHIPS.len());
        for chip in CHIPS {
            irqchips.extend(optional(Part::Irqchip(chip), self.irqchip(chip), &mut absent)?.map(Raw));
        }
        let pit2 = optional(Part::Pit2, self.fd().get_pit2().map_err(errno::of), &mut absent)?;
        Ok(VmState { irqchips, pit2: pit2.map(Raw), clock: clock.map(Raw), absent })
    }

    /// Restores a saved state into a VM with the same devices, before the states of its vCPUs: what the I/O APIC
    /// raises again on the way is then overwritten by their local APICs, which know of it already.
    ///
    /// The paravirtual clock goes on from the saved instant: to the guest, no time has passed.
    ///
    /// # Errors
    /// [`StateError::Restore`] at the first part that was saved and cannot be set; `ENXIO` says that the device was
    /// not created.
    pub fn set_state(&self, state: &VmState) -> Result<(), StateError> {
        let part = |part| move |errno| StateError::Restore { part, errno };
        for chip in &state.irqchips {
            self.fd().set_irqchip(chip).map_err(errno::of).map_err(part(Part::Irqchip(chip.chip_id)))?;
        }
        if let Some(pit2) = &state.pit2 {
            self.fd().set_pit2(pit2).map_err(errno::of).map_err(part(Part::Pit2))?;
        }
        if let Some(clock) = &state.clock {
            // The flags that came with it describe the host it was read on; set, they would add the time in between.
            let clock = kvm_clock_data { clock: clock.clock, ..Default::default() };
            self.fd().set_clock(&clock).map_err(errno::of).map_err(part(Part::Clock))?;
        }
        Ok(())
    }

    fn irqchip(&self, chip: u32) -> Result<kvm_irqchip, Errno> {
        let mut state = kvm_irqchip { chip_id: chip, ..Default::default() };
        self.fd().get_irqchip(&mut state).map_err(errno::of)?;
        Ok(state)
    }
}
